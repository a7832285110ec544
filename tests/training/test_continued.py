"""A run that goes on from a checkpoint with other settings has those from there on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pack.training.adapters.lora import LoraConfig
from pack.training.config import TrainConfig
from pack.training.loop import end, train
from pack.training.optimizers.choices import Algorithm, OptimizerConfig
from pack.training.run import Run
from pack.training.state import RunState
from pack.training.words.concepts import Concept
from training.toys import same, toy_parts, trained

TOK = Concept(placeholder="TOK", initial="small dog", pivot=0.5)
CONFIG = TrainConfig(steps=8, optimizer=OptimizerConfig(learning_rate=1e-4))


def kept_after(steps: int, config: TrainConfig = CONFIG, *concepts: Concept) -> RunState:
    """The state of a run after some steps."""
    run = train(toy_parts(*concepts or (TOK,)), config)
    state = [next(run).state() for _ in range(steps)][-1]
    run.close()
    return state


def with_optimizer(**settings: object) -> TrainConfig:
    return replace(CONFIG, optimizer=OptimizerConfig(**settings))  # pyright: ignore


def test_rates_and_weight_decay_are_the_new_ones_and_the_moments_the_old_ones():
    state = kept_after(2)
    run = Run(toy_parts(TOK), with_optimizer(learning_rate=2e-3, weight_decay=0.5), state)
    optimizer = run.optimizers["adapters"]
    (group,) = optimizer.param_groups
    assert (group["rate"], group["weight_decay"]) == (2e-3, 0.5)
    kept = state.tensors["optimizers.adapters.0.exp_avg"]
    assert torch.equal(optimizer.state[group["params"][0]]["exp_avg"], kept)


@pytest.mark.parametrize("before", Algorithm)
@pytest.mark.parametrize("after", Algorithm)
def test_any_algorithm_can_follow_any_other(before: Algorithm, after: Algorithm):
    state = kept_after(2, with_optimizer(algorithm=before, learning_rate=1e-3))
    parts = toy_parts(TOK)
    list(train(parts, with_optimizer(algorithm=after, learning_rate=1e-3), state))
    assert all(value.isfinite().all() for value in trained(parts).values())


def test_a_pivot_that_was_changed_is_where_its_new_share_says():
    state = kept_after(2)
    parts, frozen = toy_parts(replace(TOK, pivot=0.75)), []
    for report in train(parts, CONFIG, state):
        frozen.append("TOK" not in report.run.live)
    assert frozen == [False, False, False, True, True, True]


def test_an_ended_run_of_schedule_free_gives_its_average_and_not_the_point_it_trains_at():
    config = with_optimizer(algorithm=Algorithm.SCHEDULE_FREE, learning_rate=0.02)
    whole = toy_parts(TOK)
    states = [report.state() for report in train(whole, config)]
    again = toy_parts(TOK)
    end(again, config, states[-1])
    assert same(trained(again), trained(whole))
    for name, learned in whole.parameters().items():
        frozen = name.startswith("vectors.")
        assert torch.equal(states[-1].tensors[f"parameters.{name}"], learned) is frozen


def test_prodigy_takes_a_share_of_the_rate_for_text_encoders():
    parts = toy_parts(TOK, lora=LoraConfig(rank=2, alpha=2.0, text_encoder=True, text_rate=0.5))
    config = with_optimizer(algorithm=Algorithm.PRODIGY)
    states = [report.state() for report in train(parts, config)]
    rates = {group["rate"] for part in states[-1].numbers.values() for group in part["groups"]}
    assert rates == {1.0, 0.5}
    rest = toy_parts(TOK, lora=LoraConfig(rank=2, alpha=2.0, text_encoder=True, text_rate=0.5))
    list(train(rest, config, states[3]))
    assert same(trained(rest), trained(parts))
