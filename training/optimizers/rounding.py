"""Parameters in bf16 that lose no small update: each step is rounded up or down by chance."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LOW_BITS = 16
"""By which fp32 is longer than bf16."""


def round_by_chance(values: Tensor, draw: torch.Generator) -> Tensor:
    """Fp32 to bf16, up or down with the probabilities that keep the mean.

    Gupta et al. 2015 (arXiv 1502.02551). Rounding to the nearest loses every update below a
    256th of a weight, so AdamW at usual rates stands still in plain bf16.
    """
    bits = values.contiguous().view(torch.int32)
    chance = torch.randint(
        2**LOW_BITS, values.shape, generator=draw, device=values.device, dtype=torch.int32
    )
    # What is carried out of the low bits raises the magnitude by one step of bf16.
    rounded = ((bits + chance) >> LOW_BITS) << LOW_BITS
    return torch.where(values.isfinite(), rounded.view(torch.float32), values).to(torch.bfloat16)


@contextmanager
def in_fp32(
    parameters: Sequence[nn.Parameter], draw: torch.Generator
) -> Generator[None, None, None]:
    """The parameters and their gradients in fp32 for an update, then rounded by chance."""
    for parameter in parameters:
        grad = parameter.grad
        parameter.grad = None
        parameter.data = parameter.data.float()
        parameter.grad = None if grad is None else grad.float()
    try:
        yield
    finally:
        for parameter in parameters:
            moved = parameter.grad is not None
            parameter.grad = None
            kept = parameter.data
            parameter.data = round_by_chance(kept, draw) if moved else kept.to(torch.bfloat16)
