"""At its pivot a concept is frozen bit for bit, and after the last one the text encoder rests."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from training.toys import (
    CAPTIONS,
    losses,
    of_concept,
    same,
    toy_data,
    toy_parts,
    trained,
    vectors_of,
)

from pack.training.config import TrainConfig
from pack.training.data import EMPTY
from pack.training.loop import train
from pack.training.objective import ObjectiveConfig, Prior
from pack.training.optimizers.choices import Algorithm, OptimizerConfig, drop_group, make_optimizer
from pack.training.parts import Parts
from pack.training.words.concepts import Concept, mentioned

ADAMW = OptimizerConfig(weight_decay=0.0)
PRODIGY = OptimizerConfig(algorithm=Algorithm.PRODIGY, weight_decay=0.0)
BOTH = pytest.mark.parametrize("optimizer", [ADAMW, PRODIGY], ids=["AdamW", "Prodigy"])
TOGETHER = ("TIK beside TOK", "a TOK", "a TIK", "a hill")


def concept(placeholder: str = "TOK", pivot: float = 0.5) -> Concept:
    return Concept(placeholder=placeholder, initial="small dog", pivot=pivot)


def history(parts: Parts, config: TrainConfig) -> list[dict[str, Tensor]]:
    """All trained numbers before the run and after each of its steps."""
    states = [trained(parts)]
    states += [trained(parts) for _ in train(parts, config)]
    return states


def moves(states: list[dict[str, Tensor]], name: str) -> list[bool]:
    """Whether the vectors of a concept changed, step by step."""
    rows = [of_concept(state, name) for state in states]
    assert all(rows)
    return [not same(before, after) for before, after in zip(rows, rows[1:], strict=False)]


@BOTH
def test_pivot_stops_the_embeddings(optimizer: OptimizerConfig):
    parts = toy_parts(concept(pivot=0.5))
    config = TrainConfig(steps=12, embedding_optimizer=optimizer, optimizer=optimizer)
    states = history(parts, config)
    assert moves(states, "TOK") == [True] * 6 + [False] * 6
    last = [{k: v for k, v in state.items() if "block" in k} for state in states[-2:]]
    assert not same(*last), "the adapter trains on"


@BOTH
def test_every_concept_has_its_own_pivot(optimizer: OptimizerConfig):
    late, early = concept("TOK", 0.75), concept("TIK", 0.25)
    parts = toy_parts(late, early, captions=TOGETHER)
    states = history(parts, TrainConfig(steps=8, batch_size=4, embedding_optimizer=optimizer))
    assert moves(states, "TIK") == [True] * 2 + [False] * 6
    assert moves(states, "TOK") == [True] * 6 + [False] * 2


@BOTH
def test_at_its_pivot_a_concept_leaves_its_optimizer_and_the_graph(optimizer, updates):
    parts = toy_parts(concept("TOK", 0.75), concept("TIK", 0.25), captions=("TIK beside TOK",))
    config = TrainConfig(steps=4, optimizer=optimizer, embedding_optimizer=optimizer)
    for report in train(parts, config):
        left = {0: ["TOK", "TIK"], 1: ["TOK"], 2: ["TOK"], 3: []}[report.step]
        names = [name for update in updates for name in update.names]
        assert names == [*left, "adapters"]
        assert all(rows.grad is None for rows in vectors_of(parts)["TIK"].values())
        updates.clear()


def test_one_concepts_pivot_does_not_disturb_the_others():
    """Without an adapter and a shared caption nothing but the optimizer could tie two concepts."""
    config = TrainConfig(steps=8, max_grad_norm=1e9, embedding_optimizer=ADAMW)
    captions = ("a TOK", "a TIK")
    ends = []
    for pivot in (0.25, 1.0):
        concepts = concept("TOK", 1.0), concept("TIK", pivot)
        ends.append(history(toy_parts(*concepts, captions=captions, lora=None), config)[-1])
    assert same(of_concept(ends[0], "TOK"), of_concept(ends[1], "TOK"))
    assert not same(of_concept(ends[0], "TIK"), of_concept(ends[1], "TIK"))


@BOTH
def test_pivot_0_never_trains(optimizer: OptimizerConfig):
    parts = toy_parts(concept(pivot=0.0))
    states = history(parts, TrainConfig(steps=4, embedding_optimizer=optimizer))
    assert moves(states, "TOK") == [False] * 4
    assert parts.text.released == 1


def test_a_concept_that_never_trains_gathers_no_gradient_beside_one_that_does():
    parts = toy_parts(concept("TOK", 0.0), concept("TIK", 1.0), captions=("TIK beside TOK",))
    states = history(parts, TrainConfig(steps=3))
    assert moves(states, "TOK") == [False] * 3 and moves(states, "TIK") == [True] * 3
    assert all(rows.grad is None for rows in vectors_of(parts)["TOK"].values())


@BOTH
def test_pivot_1_trains_to_the_end(optimizer: OptimizerConfig):
    parts = toy_parts(concept(pivot=1.0), captions=("a TOK",))
    states = history(parts, TrainConfig(steps=5, embedding_optimizer=optimizer))
    assert moves(states, "TOK") == [True] * 5
    assert parts.text.released == 0


def test_a_learning_rate_of_0_does_not_stop_prodigy_but_leaving_its_optimizer_does():
    """The usual scripts set the rate of the embeddings' group to 0: side by side with ours."""
    by_rate, by_leaving = [guided_by_prodigy(stop) for stop in (rate_to_zero, leave)]
    assert by_leaving[0].equal(by_rate[0]), "the same until the pivot"
    assert (by_rate[1] - by_rate[0]).norm() > 0.01 * by_rate[0].norm()
    assert by_leaving[1].equal(by_leaving[0])


def guided_by_prodigy(stop) -> tuple[Tensor, Tensor]:
    """A small regression in two parts: the embedding at the pivot, step 30, and at step 60."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 4, generator=draw), torch.randn(64, 2, generator=draw)
    factor = nn.Parameter(torch.randn(4, 2, generator=draw))
    rows = nn.Parameter(torch.randn(1, 2, generator=draw))
    optimizer = make_optimizer(PRODIGY, {"adapters": [factor], "TOK": [rows]}, 1.0)
    at_pivot = rows.detach()
    for step in range(60):
        if step == 30:
            stop(optimizer, rows)
            at_pivot = rows.detach().clone()
        optimizer.zero_grad()
        (x @ factor + rows - y).square().mean().backward()
        optimizer.step()
    return at_pivot, rows.detach().clone()


def rate_to_zero(optimizer: torch.optim.Optimizer, _: nn.Parameter) -> None:
    optimizer.param_groups[1]["lr"] = 0.0


def leave(optimizer: torch.optim.Optimizer, rows: nn.Parameter) -> None:
    drop_group(optimizer, "TOK")
    rows.requires_grad_(False)


def test_after_the_last_pivot_the_text_encoder_is_never_asked_again():
    parts = toy_parts(concept("TOK", 0.25), concept("TIK", 0.5), captions=TOGETHER)
    objective = ObjectiveConfig(caption_dropout=0.3, prior=Prior.BASE)
    asked, released = [], []
    for _ in train(parts, TrainConfig(steps=16, objective=objective)):
        asked.append(len(parts.text.encoded))
        released.append(parts.text.released)
    assert released == [0] * 8 + [1] * 8
    assert asked[8] > asked[7] and asked[8:] == [asked[8]] * 8


def test_after_its_pivot_a_concept_conditions_with_its_last_vectors():
    parts = toy_parts(concept(pivot=0.5), captions=("a TOK",))
    losses(parts, TrainConfig(steps=4))
    used = parts.denoiser.predictions[-1].conditions[0]
    with torch.no_grad():
        assert torch.equal(used, parts.text.pooled(parts.data.captions[0]))


def test_captions_without_a_live_concept_are_encoded_once():
    parts = toy_parts(concept(pivot=0.5))
    losses(parts, TrainConfig(steps=40, objective=ObjectiveConfig(caption_dropout=0.3)))
    times = Counter(parts.text.encoded)
    constant = parts.data.captions[CAPTIONS.index("a hill")]
    moving = parts.data.captions[CAPTIONS.index("a TOK")]
    assert times[constant] == times[EMPTY] == 1
    assert times[moving] > 2


def test_without_concepts_every_caption_is_encoded_once_and_the_encoder_released_first():
    parts = toy_parts(captions=("a hill", "snow", "a hill"))
    run = train(parts, TrainConfig(steps=5))
    next(run)
    assert parts.text.released == 1
    assert Counter(parts.text.encoded) == Counter({*parts.data.captions, EMPTY})


@pytest.mark.parametrize("prior", list(Prior), ids=[p.value for p in Prior])
def test_a_released_encoder_leaves_nothing_to_ask_whatever_the_prior(prior: Prior):
    """The toy encoder refuses once it is released, which with pivot 0 is before the first step."""
    pictures = toy_data(("a cat", "cats"), key="class") if prior is Prior.PICTURES else None
    parts = toy_parts(concept(pivot=0.0), prior=pictures)
    objective = ObjectiveConfig(caption_dropout=0.3, prior=prior)
    assert len(losses(parts, TrainConfig(steps=8, objective=objective))) == 8
    assert parts.text.released == 1


def test_only_captions_with_a_live_concept_are_encoded_with_a_graph():
    parts = toy_parts(concept(pivot=0.5))
    objective = ObjectiveConfig(caption_dropout=0.3)
    for report in train(parts, TrainConfig(steps=8, objective=objective)):
        live = report.step < 4
        wanted = [live and bool(mentioned(caption)) for caption in parts.text.encoded]
        assert parts.text.recorded == wanted
        parts.text.encoded.clear()
        parts.text.recorded.clear()


def test_equal_captions_of_a_batch_share_one_encoding_with_the_sum_of_their_gradients():
    parts = toy_parts(concept(pivot=1.0), captions=("a TOK",) * 4, batch_size=4)
    next(train(parts, TrainConfig(steps=1)))
    assert len(parts.text.encoded) == 1
