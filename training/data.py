"""What a run draws from: latents, captions, crops, and the random draws of a step."""

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
    """A dataset made ready: one latent, caption and crop for each picture, and their order."""

    latents: Sequence[Tensor]
    """Raw codec latents, (channels, height / 8, width / 8) on the CPU"""
    captions: Sequence[Caption]
    crops: Sequence[Crop]
    """One for each latent"""
    batches: Batches
    masks: Sequence[Tensor | None] = ()
    """How much each place of a latent counts, (height / 8, width / 8), none being 0 everywhere;
    None counts all places alike, as no masks at all do"""
    views: Sequence[Sequence[int]] = ()
    """Which latents show each picture, one of them drawn each time; empty for one a picture"""
    texts: Sequence[Sequence[int]] = ()
    """Which captions describe each picture, one of them drawn each time; empty for one each"""


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
    mask: Tensor | None = None
    """(batch, height, width) how much each place of a latent counts; None counts all alike"""

    def __len__(self) -> int:
        return len(self.captions)

    def part(self, start: int, end: int) -> Batch:
        """Some of the samples, in their order."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        some = {name: one[start:end] for name, one in values.items() if one is not None}
        return Batch(**some)


@dataclass(frozen=True, slots=True)
class MicroStep:
    """A batch, and what the prior holds on to beside it: class pictures, or the batch's classes."""

    batch: Batch
    prior: Batch | None
    negative: tuple[Caption, ...] = ()
    """For each sample of the batch what its prediction is guided away from; empty for plain ones"""
    share: float = 1.0
    """Weight of this batch's mean in the mean over the batch that it is a part of"""
    prior_share: float = 1.0
    number: int = 0
    """Of the micro step in the run"""
    place: int = 0
    """Of the first sample in the batch that was drawn"""

    def captions(self) -> tuple[Caption, ...]:
        """All that has to be encoded."""
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
        return [self.part(one, one + 1) for one in range(len(self.batch))]


EMPTY: Caption = ("",)
PLAIN = ObjectiveConfig()


def draw_batch(
    data: TrainingData,
    seed: int,
    micro_step: int,
    dropout: float,
    objective: ObjectiveConfig = PLAIN,
) -> Batch:
    """Batch `micro_step` of the run, a pure function of its arguments.

    Every sample draws from a generator of its own, seeded by the run's seed, the micro step
    and the sample's place in the batch, so a resumed run or another device draws the same.
    """
    items = data.batches.at(micro_step)
    shown = _choices(data.views, items, seed, "view", micro_step)
    told = _choices(data.texts, items, seed, "text", micro_step)
    noise, offset, positions = list[Tensor](), list[Tensor](), list[Tensor]()
    captions = list[Caption]()
    for place, (view, text) in enumerate(zip(shown, told, strict=True)):
        draw = generator(seed, "sample", micro_step, place)
        positions.append(draw_position(objective, draw))
        dropped = torch.rand((), generator=draw).item() < dropout
        captions.append(EMPTY if dropped else data.captions[text])
        latent = data.latents[view]
        noise.append(torch.randn(latent.shape, generator=draw))
        offset.append(torch.randn(latent.shape[0], generator=draw))
    return Batch(
        latents=torch.stack([data.latents[view] for view in shown]),
        noise=torch.stack(noise),
        offset=torch.stack(offset),
        positions=torch.stack(positions),
        captions=tuple(captions),
        crops=tuple(data.crops[view] for view in shown),
        mask=_stacked_masks(data, shown),
    )


def _choices(
    options: Sequence[Sequence[int]], items: Sequence[int], seed: int, kind: str, micro_step: int
) -> list[int]:
    """One of the options of each item, drawn apart from everything else of the step."""
    if not options:
        return list(items)
    draws = (generator(seed, kind, micro_step, place) for place in range(len(items)))
    chosen = zip((options[item] for item in items), draws, strict=True)
    return [row[int(torch.randint(len(row), (), generator=draw))] for row, draw in chosen]


def _stacked_masks(data: TrainingData, shown: Sequence[int]) -> Tensor | None:
    """(batch, height, width), or None when no latent of the batch has a mask."""
    masks = [data.masks[view] if data.masks else None for view in shown]
    if all(mask is None for mask in masks):
        return None
    sizes = [data.latents[view].shape[-2:] for view in shown]
    rows = zip(masks, sizes, strict=True)
    return torch.stack([torch.ones(size) if mask is None else mask for mask, size in rows])
