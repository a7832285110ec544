"""Continue Run begins another run: at its own settings, judged and ended by itself."""

from __future__ import annotations

import pytest
import torch
from comfy.sd import VAE
from host.run.test_runs import STEPS, asking, folder, pictures, training  # noqa: F401 - a fixture

from harness.host.graphs import Graph
from harness.host.runner import GraphFailed
from pack.bundles.load import load_bundle
from pack.nodes.host.run.live import LiveRequest
from pack.training.state import RunState


def continued(source: str, step: int, name: str, **settings: object) -> tuple[Graph, str]:
    """A graph that goes on from a checkpoint under another name."""
    graph = Graph()
    own = {n: settings.pop(n) for n in ("more_steps", "learning_rate") if n in settings}
    origin = graph.add("Pivotal_ContinueRun", checkpoint=f"{source}/step_{step:08}", **own)
    return training(name, graph, continue_from=origin.out(), **settings)


def test_its_rate_is_the_one_that_trains(host, run_graph):
    run_graph(training("rated", checkpoint_every=2, keep_checkpoints=0)[0])
    graph, _ = continued("rated", 4, "rated anew", more_steps=2, learning_rate=0.002)
    run_graph(graph)
    (group,) = folder(host, "rated anew").load().numbers["adapters"]["groups"]
    assert (group["rate"], group["lr"]) == (0.002, 0.002)


def test_a_run_that_was_finished_early_trains_on(host, run_graph, monkeypatch):
    asking(monkeypatch, "early", {2: LiveRequest("finish")})
    run_graph(training("early")[0])
    assert folder(host, "early").load().step == 3
    monkeypatch.undo()
    graph, node = continued("early", 3, "early on")
    assert len(run_graph(graph)[node, 4]["loss"]) == STEPS


@pytest.mark.parametrize("judged", [False, True])
def test_what_was_best_before_does_not_stand_for_what_is_learned_now(
    host, run_graph, monkeypatch, judged
):
    def validation(graph: Graph) -> object:
        held = graph.add("Pivotal_LoadDataset", folder="runs").out()
        return graph.add("Pivotal_Validation", every=1, dataset=held, patience=1).out()

    name = f"judged {judged}"
    graph = Graph()
    graph, _ = training(name, graph, validation=validation(graph), checkpoint_every=1)
    run_graph(graph)
    step = folder(host, name).load().step
    graph = Graph()
    origin = graph.add(
        "Pivotal_ContinueRun", checkpoint=f"{name}/step_{step:08}", more_steps=3, learning_rate=0.01
    )
    settings = {"validation": validation(graph)} if judged else {}
    graph, node = training(f"{name} on", graph, continue_from=origin.out(), **settings)
    found = run_graph(graph)
    assert len(found[node, 4]["loss"]) > step + judged, "its first validation does not end it"
    if not judged:
        run = folder(host, f"{name} on")
        last, given = load_bundle(run.bundle_at(step + 3)), load_bundle(run.bundle)
        assert all(torch.equal(given.lora[key], value) for key, value in last.lora.items())


TWO_WORDS = ("TOK", "hill")


def words(graph: Graph, *placeholders: str, **settings: object) -> object:
    """Concepts that are chained in this order."""
    chain = None
    for word in placeholders:
        more = {"concepts": chain} if chain else {}
        chain = graph.concept(word, pivot=1.0, **more, **settings)
    return chain


def counts(state: RunState) -> dict[str, float]:
    """By concept how often its rows were updated."""
    groups = state.numbers["embeddings"]["groups"]
    assert all(group["params"] == 1 for group in groups)
    return {
        group["name"]: state.tensors[f"optimizers.embeddings.{index}.step"].item()
        for index, group in enumerate(groups)
    }


def test_the_state_of_an_optimizer_is_matched_by_name(host, run_graph):
    graph = Graph()
    graph, _ = training("chained", graph, concepts=words(graph, *TWO_WORDS), steps=4)
    run_graph(graph)
    before = counts(folder(host, "chained").load())
    assert min(before.values()) > 1
    graph = Graph()
    origin = graph.add("Pivotal_ContinueRun", checkpoint="chained/step_00000004", more_steps=1)
    graph, node = training(
        "chained on", graph, concepts=words(graph, *reversed(TWO_WORDS)), continue_from=origin.out()
    )
    assert "afresh" not in run_graph(graph)[node, 5]
    after = counts(folder(host, "chained on").load())
    assert list(after) == list(before)[::-1]
    assert all(after[name] - before[name] in (0, 1) for name in before)


def test_a_different_optimizer_starts_afresh_and_the_report_says_so(host, run_graph):
    run_graph(training("adam", steps=2)[0])
    graph = Graph()
    other = graph.add("Pivotal_Optimizer", algorithm="Prodigy").out()
    origin = graph.add("Pivotal_ContinueRun", checkpoint="adam/step_00000002", more_steps=1)
    graph, node = training("prodigy", graph, optimizer=other, continue_from=origin.out())
    report = run_graph(graph)[node, 5]
    assert "The optimizer of the adapters (Prodigy) was AdamW: it starts afresh." in report


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": ("Pivotal_Lora", {"rank": 3})}, "is .2, [0-9]+. in the checkpoint and .3, "),
        ({"kind": ("Pivotal_Lora", {"rank": 2, "text_encoder": True})},
         "this graph trains the layers of the text encoders .* and .* more"),
        ({"kind": ("Pivotal_Lora", {"rank": 2, "targets": "attention and mlp"})},
         "this graph trains the layers of the diffusion model"),
        ({"kind": ("Pivotal_TriLora", {"rank": 2})}, "the factors"),
        ({"adapter": None}, "the checkpoint has the layers of the diffusion model"),
        ({"words": ("hill",)}, "the checkpoint has the concepts tok.*this graph trains the conc"),
        ({"rows": 3}, "vectors.tok.* is .2, 768. in the checkpoint and .3, 768."),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_checkpoint_is_named_before_any_work(
    host, run_graph, monkeypatch, settings: dict, says: str
):
    if not (folder(host, "narrow").path / "run.json").exists():
        run_graph(training("narrow", steps=2)[0])
    graph, settings = Graph(), dict(settings)
    concept = {"vectors": settings.pop("rows", 2)}
    own = {"concepts": words(graph, *settings.pop("words", ("TOK",)), **concept)}
    if settings.get("adapter", 1) is None:
        own["adapter"] = settings.pop("adapter")
    origin = graph.add("Pivotal_ContinueRun", checkpoint="narrow/step_00000002", more_steps=1)
    graph, _ = training("wide", graph, continue_from=origin.out(), **own, **settings)

    def encode(*_: object) -> None:
        raise AssertionError("images were encoded first")

    monkeypatch.setattr(VAE, "encode", encode)
    with pytest.raises(GraphFailed, match=f"The checkpoint does not fit: .*{says}"):
        run_graph(graph)
    assert not folder(host, "wide").path.exists()


def test_fewer_steps_than_a_run_has_are_refused(host, run_graph, monkeypatch):
    run_graph(training("shorter")[0])
    with pytest.raises(GraphFailed, match=f"already has {STEPS} steps and is to have 3: set"):
        run_graph(training("shorter", steps=3)[0])
    run = folder(host, "shorter")
    (run.path / "progress.json").unlink()
    with pytest.raises(GraphFailed, match="or choose another run_name"):
        run_graph(training("shorter", steps=3)[0])


@pytest.mark.parametrize("name", ["a" * 300, "\u6c34" * 100])
def test_a_run_name_too_long_for_a_folder_is_refused(run_graph, name: str):
    with pytest.raises(GraphFailed, match="300 bytes in UTF-8 and may have 250"):
        run_graph(training(name)[0])


def test_the_longest_run_name_trains_and_gets_a_number(host, run_graph):
    name = "\u6c34" * 83
    run_graph(training(name, steps=1)[0])
    run_graph(training(name, steps=1, seed=3)[0])
    assert folder(host, f"{name}_2").bundle.exists()


def test_the_report_says_the_rates_of_a_run_that_starts_in_the_middle(host, run_graph):
    """By the schedule over all its steps: a cosine of 8 is 0.146 at step 6, 0.038 at 7."""
    run_graph(training("curved", schedule="cosine")[0])
    graph, node = continued("curved", STEPS, "curved on", more_steps=2, learning_rate=0.01,
                            schedule="cosine")  # fmt: skip
    report = run_graph(graph)[node, 5]
    assert (
        "learning rates from step 7 on: adapters 0.00146 to 0.000381 (cosine over 8 ste" in report
    )
    graph, node = training("curved", schedule="cosine", steps=8)
    assert "rates from step 7 on: adapters 1.46e-05 to 3.81e-06 (cos" in run_graph(graph)[node, 5]
