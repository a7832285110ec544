"""Numbers come from the device in order and as they were, and nobody waits for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pack.nodes.host.run.numbers import Mailbox


@dataclass(frozen=True, slots=True)
class Letter:
    step: int
    loss: Tensor
    errors: tuple[Tensor, ...]
    norms: Mapping[str, Mapping[str, Tensor]]


def letter(step: int, device: str = "cpu") -> Letter:
    value = torch.full((2,), float(step), device=device)
    return Letter(step, value.sum(), (value, value + 1), {"adapters": {"clip_l": value * 2}})


def read(one: Letter) -> tuple:
    errors = [error.tolist() for error in one.errors]
    return one.step, one.loss.item(), errors, one.norms["adapters"]["clip_l"].tolist()


def expected(step: int) -> tuple:
    value = [float(step)] * 2
    return step, 2.0 * step, [value, [v + 1 for v in value]], [2 * v for v in value]


def test_letters_arrive_in_order_with_the_values_that_they_were_posted_with():
    box = Mailbox[Letter]()
    for step in range(3):
        posted = letter(step)
        box.post(posted)
        posted.errors[0].zero_()
    assert [read(one) for one in box.arrived()] == [expected(step) for step in range(3)]
    assert box.arrived(wait=True) == []


@pytest.mark.cuda
def test_the_cpu_does_not_wait_for_a_gpu_that_is_at_work():
    box, busy = Mailbox[Letter](), torch.ones(4096, 4096, device="cuda")
    letters = [letter(step, "cuda") for step in range(3)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(50):
            busy = busy @ busy / 4096
        for one in letters:
            box.post(one)
        assert box.arrived() == [], "the copies wait for the work that was queued before them"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [read(one) for one in box.arrived(wait=True)] == [expected(step) for step in range(3)]
