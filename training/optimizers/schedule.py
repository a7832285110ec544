"""Learning rate schedules as pure functions of the step."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import torch


class Schedule(str, Enum):
    """Shapes of the learning rate after the warm-up."""

    CONSTANT = "constant"
    COSINE = "cosine"
    LINEAR = "linear"


def rate_factor(schedule: Schedule, warmup_steps: int, steps: int) -> Callable[[int], float]:
    """The factor on every learning rate at a step, computed by diffusers' schedules."""
    try:
        from diffusers.optimization import get_scheduler
    except ImportError as missing:
        raise ImportError(
            "Learning rate schedules need diffusers, which is not installed: "
            "run pip install diffusers"
        ) from missing

    name = "constant_with_warmup" if schedule is Schedule.CONSTANT else schedule.value
    carrier = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    made = get_scheduler(name, carrier, num_warmup_steps=warmup_steps, num_training_steps=steps)
    return made.lr_lambdas[0]


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to its own rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * factor
