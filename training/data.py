"""The data of a run (latents, captions, crops) and the random draws of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .dataset.batches import Batches
from .objective import ObjectiveConfig, draw_position
from .ports import Caption, Crop
from .randomness import generator


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """A dataset ready to train on: a latent, caption and crop for each picture, and their order."""

    latents: Sequence[Tensor]
    """Raw codec latents, (channels, height / 8, width / 8) on the CPU"""
    captions: Sequence[Caption]
    crops: Sequence[Crop]
    """One for each latent"""
    batches: Batches
    masks: Sequence[Tensor | None] = ()
    """Weight of each place of a latent, (height / 8, width / 8), never 0 everywhere; None weighs
    all places alike, as does an empty sequence"""
    views: Sequence[Sequence[int]] = ()
    """Latents that show each picture, one of which is drawn each time; empty if each has one"""
    texts: Sequence[Sequence[int]] = ()
    """Captions of each picture, one of which is drawn each time; empty if each has one"""
    notes: Sequence[str] = ()
    """A line for the report for whatever about the pictures is not as expected"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The samples of one micro step and everything that was drawn for them."""

    latents: Tensor
    noise: Tensor
    offset: Tensor
    """(batch, channels) constant part of an offset noise"""
    positions: Tensor
    """(batch,) schedule positions in [0, 1), 0 being the cleanest"""
    captions: tuple[Caption, ...]
    crops: tuple[Crop, ...]
    mask: Tensor | None = None
    """(batch, height, width) weight of each place of a latent; None weighs all alike"""

    def __len__(self) -> int:
        return len(self.captions)

    def part(self, start: int, end: int) -> Batch:
        """Some of the samples, in their order."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        present = {name: value for name, value in values.items() if value is not None}
        return Batch(**{name: value[start:end] for name, value in present.items()})


@dataclass(frozen=True, slots=True)
class MicroStep:
    """A batch and the samples of its prior: class pictures, or the batch under its class words."""

    batch: Batch
    prior: Batch | None
    negative: tuple[Caption, ...] = ()
    """The caption that each sample is guided away from; empty without negative embeddings"""
    share: float = 1.0
    """Weight of this batch's mean in the mean over the batch that it is a part of"""
    prior_share: float = 1.0
    number: int = 0
    """Of the micro step in the run"""
    place: int = 0
    """Of the first sample in the batch that was drawn"""

    def captions(self) -> tuple[Caption, ...]:
        """Every caption that has to be encoded."""
        prior = self.prior.captions if self.prior else ()
        return self.batch.captions + prior + self.negative

    def part(self, start: int, end: int) -> MicroStep:
        """Some of the samples; the sum of all parts' means by their shares is the whole's mean.

        The samples of the prior go with them in proportion.
        """
        count, prior_count = len(self.batch), len(self.prior) if self.prior else 0
        if (start, end) == (0, count):
            return self
        first, last = prior_count * start // count, prior_count * end // count
        return MicroStep(
            batch=self.batch.part(start, end),
            prior=self.prior.part(first, last) if self.prior and last > first else None,
            negative=self.negative[start:end],
            share=self.share * (end - start) / count,
            prior_share=self.prior_share * (last - first) / max(prior_count, 1),
            number=self.number,
            place=self.place + start,
        )

    def pieces(self) -> list[MicroStep]:
        """The same sample by sample."""
        return [self.part(place, place + 1) for place in range(len(self.batch))]


EMPTY: Caption = ("",)
PLAIN = ObjectiveConfig()


def draw_batch(
    data: TrainingData,
    seed: int,
    micro_step: int,
    dropout: float,
    objective: ObjectiveConfig = PLAIN,
) -> Batch:
    """Batch number `micro_step` of the run, a pure function of the arguments.

    Every sample draws from a generator of its own, seeded by the run's seed, the micro step
    and the sample's place in the batch, so a resumed run or another device draws the same.
    """
    items = data.batches.at(micro_step)
    views = _choices(data.views, items, seed, "view", micro_step)
    texts = _choices(data.texts, items, seed, "text", micro_step)
    noise, offset, positions = list[Tensor](), list[Tensor](), list[Tensor]()
    captions = list[Caption]()
    for place, (view, text) in enumerate(zip(views, texts, strict=True)):
        rng = generator(seed, "sample", micro_step, place)
        positions.append(draw_position(objective, rng))
        dropped = torch.rand((), generator=rng).item() < dropout
        captions.append(EMPTY if dropped else data.captions[text])
        latent = data.latents[view]
        noise.append(torch.randn(latent.shape, generator=rng))
        offset.append(torch.randn(latent.shape[0], generator=rng))
    return Batch(
        latents=torch.stack([data.latents[view] for view in views]),
        noise=torch.stack(noise),
        offset=torch.stack(offset),
        positions=torch.stack(positions),
        captions=tuple(captions),
        crops=tuple(data.crops[view] for view in views),
        mask=_stacked_masks(data, views),
    )


def _choices(
    options: Sequence[Sequence[int]], items: Sequence[int], seed: int, kind: str, micro_step: int
) -> list[int]:
    """One of each item's options, drawn independently of everything else in the step."""
    if not options:
        return list(items)
    chosen = list[int]()
    for place, item in enumerate(items):
        rng = generator(seed, kind, micro_step, place)
        row = options[item]
        chosen.append(row[int(torch.randint(len(row), (), generator=rng))])
    return chosen


def _stacked_masks(data: TrainingData, views: Sequence[int]) -> Tensor | None:
    """(batch, height, width), or None when no latent of the batch has a mask."""
    masks = [data.masks[view] if data.masks else None for view in views]
    if all(mask is None for mask in masks):
        return None
    sizes = [data.latents[view].shape[-2:] for view in views]
    rows = zip(masks, sizes, strict=True)
    return torch.stack([torch.ones(size) if mask is None else mask for mask, size in rows])
