"""A run is a function of its seed, and no run touches the files of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch

from factories import same, tensors, write_pictures
from harness.host.graphs import Graph
from pack.bundles.bundle import Bundle


def train(run_graph: Any, family: str = "sd15", **settings: Any) -> tuple[Bundle, list[float], str]:
    """Bundle, losses and report of a run in which everything random takes part."""
    graph = Graph()
    objective = graph.add(
        "Pivotal_Objective", noise_offset=0.1, caption_dropout=0.3, prior="base model"
    )
    settings = {
        "concepts": graph.concept(initial="", class_word="thing"),
        "adapter": graph.add("Pivotal_Lora", rank=2, alpha=2.0).out(),
        "objective": objective.out(),
        "steps": 4,
        "batch_size": 2,
        **settings,
    }
    run = graph.train(graph.base(family), "seeds", **settings)
    kept = [graph.keep(run.out(index)) for index in (0, 4, 5)]
    outputs = run_graph(graph)
    made, losses, report = (outputs[one, 0] for one in kept)
    return made, losses["loss"], report


@pytest.fixture(scope="module", autouse=True)
def pictures(host) -> None:
    """Pictures of two shapes, so that there are two buckets."""
    folder = host.base / "input" / "seeds"
    write_pictures(folder, ["a TOK", "TOK on grass", "the TOK", "TOK in snow", "red TOK"])
    wide = host.base / "input" / "wide"
    write_pictures(wide, ["", "", ""], size=(128, 64))
    for number, path in enumerate(sorted(wide.iterdir())):
        path.rename(folder / f"wide{number}.png")
        (folder / f"wide{number}.txt").write_text("a wide TOK")


@pytest.fixture(scope="module")
def first(sd15, run_graph) -> tuple[Bundle, list[float], str]:
    return train(run_graph, seed=3, run_name="first")


def test_the_same_seed_gives_the_same_run_bit_for_bit(first, run_graph):
    torch.manual_seed(99)
    state = torch.get_rng_state()
    made, losses, _ = train(run_graph, seed=3, run_name="second")
    assert losses == first[1]
    assert same(made, first[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_gives_another_run(first, run_graph):
    made, losses, _ = train(run_graph, seed=4, run_name="third")
    assert all(a != b for a, b in zip(losses, first[1], strict=True))
    for key, tensor in tensors(first[0]).items():
        assert key.endswith(".alpha") or not torch.equal(tensors(made)[key], tensor), key


def test_checkpointing_does_not_change_the_run(first, run_graph):
    """Not bit for bit: blocks that are computed again read the same numbers in another layout."""
    made, losses, _ = train(run_graph, seed=3, run_name="fourth", checkpointing="on")
    assert losses == pytest.approx(first[1], rel=1e-4)
    for key, tensor in tensors(first[0]).items():
        torch.testing.assert_close(tensors(made)[key], tensor, rtol=1e-2, atol=1e-4)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_another_run_of_the_same_name_gets_a_folder_of_its_own(sd15, run_graph):
    root = Path(folder_paths.get_output_directory(), "pivotal")
    _, _, report = train(run_graph, run_name="again", steps=1, seed=1)
    assert report.endswith("run folder: pivotal/again in ComfyUI's output folder")
    before = contents(root / "again")
    assert before.keys() >= {"report.jsonl", "report.txt", "loss.png"}
    _, _, report = train(run_graph, run_name="again", steps=1, seed=2)
    assert report.endswith("run folder: pivotal/again_2 in ComfyUI's output folder")
    assert contents(root / "again") == before
    assert (root / "again_2" / "report.txt").read_bytes() != before["report.txt"]
