"""What a run draws from: latents, captions, crops, and the random draws of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .dataset.buckets import Crop
from .dataset.order import Batches
from .ports import Caption
from .randomness import generator


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """A dataset made ready: one latent, caption and crop for each picture, and their order."""

    latents: Sequence[Tensor]
    """Raw codec latents, (channels, height / 8, width / 8) on the CPU"""
    captions: Sequence[Caption]
    crops: Sequence[Crop]
    batches: Batches


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The samples of one micro step with everything that is drawn for them."""

    latents: Tensor
    noise: Tensor
    offset: Tensor
    """(batch, channels) constant part of an offset noise"""
    positions: Tensor
    """(batch,) schedule positions in [0, 1)"""
    captions: tuple[Caption, ...]
    crops: tuple[Crop, ...]


EMPTY: Caption = ("",)


def draw_batch(data: TrainingData, seed: int, micro_step: int, dropout: float) -> Batch:
    """Batch `micro_step` of the run, a pure function of its arguments.

    Every sample draws from a generator of its own, seeded by the run's seed, the micro step
    and the sample's place in the batch, so a resumed run or another device draws the same.
    """
    items = data.batches.at(micro_step)
    noise, offset, positions = list[Tensor](), list[Tensor](), list[Tensor]()
    captions = list[Caption]()
    for place, item in enumerate(items):
        draw = generator(seed, "sample", micro_step, place)
        positions.append(torch.rand((), generator=draw, dtype=torch.float64))
        dropped = torch.rand((), generator=draw).item() < dropout
        captions.append(EMPTY if dropped else data.captions[item])
        latent = data.latents[item]
        noise.append(torch.randn(latent.shape, generator=draw))
        offset.append(torch.randn(latent.shape[0], generator=draw))
    return Batch(
        latents=torch.stack([data.latents[item] for item in items]),
        noise=torch.stack(noise),
        offset=torch.stack(offset),
        positions=torch.stack(positions),
        captions=tuple(captions),
        crops=tuple(data.crops[item] for item in items),
    )
