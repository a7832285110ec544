"""The memory that keeping the optimizer off the device would save: AdamW's moments."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

FAMILIES = {"sd15": "SD1.5", "sdxl": "SDXL"}
RANKS = (16, 128)
MOMENTS, MOMENTS_8BIT, WEIGHT = 8, 2, 2
"""Bytes per number: two moments in fp32 or in 8 bits, and a weight of the model in bf16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """The optimizer of a LoRA and its model, in bytes."""

    family: str
    targets: str
    rank: int
    factors: int
    """How many numbers are trained"""
    moments: int
    moments_8bit: int
    model: int


def rows() -> Iterator[Moments]:
    from speed.models import unet

    from pack.nodes.host.denoiser.layers import adaptable_layers
    from pack.training.adapters.targets import Targets, matches

    for size, family in FAMILIES.items():
        network = unet(size)
        layers = adaptable_layers(network, lambda: None)
        weights = sum(weight.numel() for weight in network.parameters())
        for targets in (Targets.ATTENTION, Targets.CONVOLUTIONS):
            for rank in RANKS:
                shapes = [layer.shape for layer in layers if matches(layer, targets)]
                factors = sum(min(rank, out) * (out + math.prod(rest)) for out, *rest in shapes)
                yield Moments(
                    family=family, targets=targets.value, rank=rank, factors=factors,
                    moments=MOMENTS * factors, moments_8bit=MOMENTS_8BIT * factors,
                    model=WEIGHT * weights,
                )  # fmt: skip
