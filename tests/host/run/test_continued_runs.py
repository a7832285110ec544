"""Continue Run begins another run: at its own settings, judged and ended by itself."""

from __future__ import annotations

import pytest
import torch
from host.run.test_runs import STEPS, asking, folder, pictures, training  # noqa: F401 - a fixture

from harness.host.graphs import Graph
from pack.bundles.load import load_bundle
from pack.nodes.host.run.live import LiveRequest


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
