"""Learning rates follow diffusers' schedules, each part from its own rate."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training.toys import losses, toy_parts

from pack.training.config import TrainConfig
from pack.training.optimizers.choices import OptimizerConfig
from pack.training.optimizers.schedule import Schedule, rate_factor
from pack.training.words.concepts import Concept

STEPS = 12
SHAPES = pytest.mark.parametrize("schedule", list(Schedule), ids=[s.value for s in Schedule])
WARMUPS = pytest.mark.parametrize("warmup", [0, 5])


def diffusers_rates(schedule: Schedule, warmup: int, *rates: float) -> list[tuple[float, ...]]:
    """The rates of a real optimizer under diffusers' scheduler, step by step."""
    from diffusers.optimization import get_scheduler

    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates]
    optimizer = torch.optim.AdamW(groups)
    name = {"constant": "constant_with_warmup"}.get(schedule.value, schedule.value)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=STEPS)
    made = []
    for _ in range(STEPS):
        made.append(tuple(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        scheduler.step()
    return made


@SHAPES
@WARMUPS
def test_factors_are_those_of_a_stepping_diffusers_scheduler(schedule: Schedule, warmup: int):
    factor = rate_factor(schedule, warmup, STEPS)
    expected = [rate for (rate,) in diffusers_rates(schedule, warmup, 1.0)]
    assert [factor(step) for step in range(STEPS)] == pytest.approx(expected, abs=1e-15)


@SHAPES
@WARMUPS
def test_every_part_of_a_run_follows_the_schedule_from_its_own_rate(schedule, warmup, updates):
    parts = toy_parts(Concept(placeholder="TOK", initial="dog", pivot=1.0), captions=("a TOK",))
    config = TrainConfig(
        steps=STEPS,
        schedule=schedule,
        warmup_steps=warmup,
        optimizer=OptimizerConfig(learning_rate=2e-4),
        embedding_optimizer=OptimizerConfig(learning_rate=5e-3),
    )
    expected = diffusers_rates(schedule, warmup, 5e-3, 2e-4)
    updates.clear()
    losses(parts, config)
    assert [u.rates[0] for u in updates[::2]] == pytest.approx([rows for rows, _ in expected])
    assert [u.rates[0] for u in updates[1::2]] == pytest.approx([lora for _, lora in expected])


def test_the_warm_up_grows_evenly_from_0():
    factor = rate_factor(Schedule.CONSTANT, 4, STEPS)
    assert [factor(step) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
