"""Stochastic rounding, so that parameters in bf16 lose no small update."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LOW_BITS = 16
"""Mantissa bits of fp32 that bf16 lacks."""


def round_by_chance(values: Tensor, rng: torch.Generator) -> Tensor:
    """Round fp32 to bf16, up or down with the probabilities that preserve the mean.

    Gupta et al. 2015 (arXiv 1502.02551). Rounding to the nearest loses every update below a
    256th of a weight, so AdamW at usual rates stands still in plain bf16.
    """
    bits = values.contiguous().view(torch.int32)
    chance = torch.randint(
        2**LOW_BITS, values.shape, generator=rng, device=values.device, dtype=torch.int32
    )
    # What is carried out of the low bits raises the magnitude by one step of bf16.
    rounded = ((bits + chance) >> LOW_BITS) << LOW_BITS
    return torch.where(values.isfinite(), rounded.view(torch.float32), values).to(torch.bfloat16)


@contextmanager
def in_fp32(
    parameters: Sequence[nn.Parameter], rng: torch.Generator
) -> Generator[None, None, None]:
    """Parameters and gradients are in fp32 inside; afterwards parameters are rounded."""
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
            values = parameter.data
            parameter.data = round_by_chance(values, rng) if moved else values.to(torch.bfloat16)
