"""Tests of the engine draw the same numbers every time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook


@pytest.fixture(autouse=True)
def same_draws() -> Iterator[None]:
    """Seed torch for what a test draws itself; the engine must not look at this state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@dataclass(frozen=True)
class Update:
    """What an optimizer is given for one step."""

    optimizer: torch.optim.Optimizer
    names: tuple[str, ...]
    """Of its groups: "adapters", or the concepts that still train."""
    rates: tuple[float, ...]
    gradients: tuple[Tensor, ...]
    d: float | None
    """Prodigy's estimate before the step."""


@pytest.fixture
def updates() -> Iterator[list[Update]]:
    """Every optimizer step of a test, as it happens."""
    seen: list[Update] = []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        groups = optimizer.param_groups
        parameters = [p for group in groups for p in group["params"]]
        seen.append(
            Update(
                optimizer=optimizer,
                names=tuple(group.get("name", "") for group in groups),
                rates=tuple(group["lr"] for group in groups),
                gradients=tuple(p.grad.clone() for p in parameters if p.grad is not None),
                d=groups[0].get("d"),
            )
        )

    handle = register_optimizer_step_pre_hook(note)
    yield seen
    handle.remove()
