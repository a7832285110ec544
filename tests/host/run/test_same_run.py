"""Which changes begin a new run, and which find the run that was there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest

from harness.host.checkpoints import load_cut
from harness.host.graphs import Graph, Link, Node
from harness.host.runner import Host, Outputs
from harness.host.same_runs import (
    BY_NAME,
    FOLDERS,
    TABLE,
    Change,
    expected_same,
    identity_with,
    is_same,
    prepare,
    random_pair,
)
from pack.nodes.host.digests import earlier_digests
from pack.nodes.host.run.identity import LAYER, Identity

SEEDS = range(100, 108)
"""A small share of what `dev.py bench identity` tries"""


@pytest.fixture(scope="module", autouse=True)
def prepared(host: Host, sd15) -> Iterator[None]:
    prepare(host)
    yield
    for name in ("sd15 other", "sd15 again"):
        host.loaded.pop(name, None)
    comfy.model_management.unload_all_models()


@pytest.fixture(scope="module")
def plain(host: Host, prepared) -> Identity:
    return identity_with(host, [])


@pytest.mark.parametrize("change", TABLE, ids=lambda change: change.name)
def test_a_change_begins_a_new_run_or_not_as_the_table_says(host, plain, change: Change):
    changed, again = (identity_with(host, [change]) for _ in range(2))
    assert is_same(plain, changed) == (not change.new_run)
    assert is_same(changed, again)


@pytest.mark.parametrize("name", ["ToMe 0.3", "FreeU", "zero terminal SNR", "LoRA in bypass"])
def test_what_patches_gather_while_they_work_begins_no_new_run(host, name: str):
    patch = BY_NAME[name]
    fresh = identity_with(host, [patch])
    assert is_same(fresh, identity_with(host, [patch, BY_NAME["sampled before"]]))


@pytest.mark.parametrize("seed", SEEDS)
def test_two_graphs_are_the_same_run_if_the_table_says_so(host, seed: int):
    one, other = random_pair(seed)
    found = [identity_with(host, changes) for changes in (one, other)]
    assert is_same(*found) == expected_same(one, other)


Run = Callable[..., Outputs]


def training(graph: Graph, base: tuple[Link, Link, Link], name: str, **settings: Any) -> Node:
    run = graph.train(base, FOLDERS[0], run_name=name, **{"steps": 2, **settings})
    graph.keep(run.out(5))
    return run


def words(graph: Graph, **settings: Any) -> Link:
    return graph.concept(**{"initial": "dog", **settings})


def folder(host: Host, name: str) -> Path:
    return host.base / "output" / "pivotal" / name


def report(run_graph: Run, family: str = "sd15", **settings: Any) -> str:
    graph = Graph()
    run = training(graph, graph.base(family), concepts=words(graph), **settings)
    return run_graph(graph)[run, 5]


def test_a_run_is_found_after_its_checkpoint_was_loaded_anew(host, run_graph):
    report(run_graph, name="anew")
    report(run_graph, "sd15 other", name="between")
    host.loaded["sd15 again"] = load_cut("sd15")
    assert "1 of the steps now" in report(run_graph, "sd15 again", name="anew", steps=3)
    assert not folder(host, "anew_2").exists()
    assert "finished before" not in report(run_graph, "sd15 other", name="anew")
    assert folder(host, "anew_2").exists()


@pytest.mark.parametrize("kind", ["names", "LoRA"])
def test_a_run_on_the_result_of_another_is_found_when_that_is_read(host, run_graph, kind: str):
    """And begins anew when the other was trained with another seed."""

    def chain(seed: int) -> list[str]:
        graph = Graph()
        base = graph.base("sd15")
        own = {"concepts": words(graph)}
        if kind == "LoRA":
            own = {"adapter": graph.add("Pivotal_Lora", rank=2, text_encoder=True).out()}
        first = training(graph, base, f"first {kind}", seed=seed, **own)
        then = graph.concept(placeholder="hill", initial="cat")
        after = (first.out(1), first.out(2), base[2])
        second = training(graph, after, f"second {kind}", concepts=then)
        outputs = run_graph(graph)
        return [outputs[run, 5] for run in (first, second)]

    assert not any("finished before" in text for text in chain(0))
    assert all("finished before" in text for text in chain(0))
    assert not any("finished before" in text for text in chain(1))
    assert folder(host, f"second {kind}_2").exists()
    assert all("finished before" in text for text in chain(0))


@pytest.mark.parametrize("part", ["model", "clip", "vae"])
def test_a_folder_of_the_first_rule_is_compared_as_far_as_it_can_be(
    host, run_graph, sd15, part: str
):
    """The first rule read all memory, so its digest of the CLIP is never seen again."""
    name = f"first rule {part}"
    report(run_graph, name=name)
    patchers = {"model": sd15.model, "clip": sd15.clip.patcher, "vae": sd15.vae.patcher}
    models = {key: min(earlier_digests(patcher)[0]) for key, patcher in patchers.items()}
    place = folder(host, name) / "run.json"
    before = json.loads(place.read_text())
    identity = {"recipe": before["recipe"], "models": models | {part: "0123456789abcdef"}}
    place.write_text(json.dumps(identity))
    text = report(run_graph, name=name)
    if part == "clip":
        assert "finished before" in text and "read memory that no file fills" in text
        models[part] += f"{LAYER}-2"
        place.write_text(json.dumps({"recipe": before["recipe"], "models": models}))
        text = report(run_graph, name=name)
    assert "finished before" not in text and folder(host, f"{name}_2").exists()
    assert json.loads(place.read_text()).get("rule") is None


def test_a_folder_of_the_first_rule_says_that_patches_were_not_recorded(host, run_graph, sd15):
    report(run_graph, name="unrecorded")
    place = folder(host, "unrecorded") / "run.json"
    before = json.loads(place.read_text())
    clip = min(earlier_digests(sd15.clip.patcher)[0])
    models = before["models"] | {"clip": clip}
    place.write_text(json.dumps({"recipe": before["recipe"], "models": models}))
    graph = Graph()
    model, clip, vae = graph.base("sd15")
    patched = graph.add("FreeU", model=model).out()
    run = training(graph, (patched, clip, vae), "unrecorded", concepts=words(graph))
    text = run_graph(graph)[run, 5]
    assert "finished before" in text and "did not record what other nodes put" in text
