"""Priors, schedules and the pivot do in a graph on the host what they say."""

from __future__ import annotations

import itertools

import pytest
import torch

from factories import write_pictures
from harness.host.graphs import Graph
from pack.nodes.host.run.reporter import Reporter
from pack.training import loop
from pack.training.trained import all_places

NAMES = (f"recipe_{number}" for number in itertools.count())


@pytest.fixture(autouse=True)
def pictures(host, sd15) -> None:
    root = host.base / "input"
    write_pictures(root / "recipe", ["a picture of TOK", "TOK on grass"])
    write_pictures(root / "recipe_class", ["a dog", "a dog on grass", "a dog at night"])


def losses(run_graph, steps: int = 1, *, rate: float = 0.0, **objective: object) -> list[float]:
    """The losses of a run with these settings of Objective; class pictures are connected."""
    graph = Graph()
    optimizer = graph.add("Pivotal_Optimizer", learning_rate=rate or 1e-4).out()
    run = graph.train(
        graph.base("sd15"),
        "recipe",
        concepts=graph.concept(pivot=1.0),
        adapter=graph.add("Pivotal_Lora", rank=4).out(),
        objective=graph.add("Pivotal_Objective", **objective).out(),
        class_dataset=graph.add("Pivotal_LoadDataset", folder="recipe_class").out(),
        optimizer=optimizer,
        embedding_optimizer=optimizer,
        steps=steps,
        batch_size=2,
        run_name=next(NAMES),
    )
    graph.keep(run.out(5))
    return run_graph(graph)[run, 4]["loss"]


def test_the_base_models_prior_costs_nothing_until_the_model_has_changed(run_graph):
    """Its target is the base's own prediction, which an adapter that is zero does not change."""
    without = losses(run_graph, 3, rate=0.05)
    with_prior = losses(run_graph, 3, rate=0.05, prior="base model")
    assert with_prior[0] == without[0]
    assert with_prior[2] > without[2]


def test_class_pictures_add_their_loss_times_its_weight(run_graph):
    none, one, three = (
        losses(run_graph, prior="class pictures", prior_weight=weight)[0]
        for weight in (0.0, 1.0, 3.0)
    )
    assert one > none
    assert three - none == pytest.approx(3 * (one - none), rel=1e-4)
    assert none == losses(run_graph)[0]


@pytest.mark.parametrize(("beside", "drawn"), [(0, 2), (1, 1), (3, 3)])
def test_a_step_has_as_many_class_pictures_as_are_asked_for(
    run_graph, monkeypatch, beside: int, drawn: int
):
    seen: list[int] = []
    step = loop.prior_loss

    def watch(run, prior, *rest):
        seen.append(len(prior))
        return step(run, prior, *rest)

    monkeypatch.setattr(loop, "prior_loss", watch)
    losses(run_graph, 2, prior="base model", prior_batch=beside)
    assert max(seen) == drawn


def test_an_empty_caption_and_a_noise_offset_change_what_is_learned_from(run_graph):
    plain = losses(run_graph)[0]
    assert losses(run_graph, caption_dropout=1.0)[0] != plain
    assert losses(run_graph, noise_offset=0.3)[0] != plain
    assert losses(run_graph, min_snr_gamma=0.01)[0] < plain


@pytest.mark.parametrize("algorithm", ["AdamW", "Prodigy"])
def test_at_the_pivot_an_embedding_is_frozen_bit_for_bit(run_graph, monkeypatch, algorithm: str):
    seen: list[torch.Tensor] = []
    report_step = Reporter.report_step

    def watch(self, report):
        seen.append(all_places(report.run.parts.trained).vectors["tok"]["clip_l"].detach().clone())
        report_step(self, report)

    monkeypatch.setattr(Reporter, "report_step", watch)
    graph = Graph()
    optimizer = graph.add("Pivotal_Optimizer", algorithm=algorithm).out()
    run = graph.train(
        graph.base("sd15"),
        "recipe",
        concepts=graph.concept(pivot=0.5),
        adapter=graph.add("Pivotal_Lora", rank=4).out(),
        optimizer=optimizer,
        embedding_optimizer=optimizer,
        steps=6,
        run_name=next(NAMES),
    )
    graph.keep(run.out(5))
    bundle = run_graph(graph)[run, 0]
    moves = [not torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    assert moves == [True, True, False, False, False]
    assert torch.equal(bundle.embeddings["tok"]["clip_l"], seen[2].cpu())
