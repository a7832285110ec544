"""Validation on held-out pictures with fixed noise and times, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .data import Batch, TrainingData
from .objective import errors, plain
from .randomness import generator
from .run import Run
from .words.concepts import mentioned

ALL = "all"
"""Key of the mean over all pictures; the other keys are concepts"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationConfig:
    """When to validate, and what follows from the losses."""

    every: int = 100
    """Steps between validations"""
    draws: int = 4
    """Draws of noise and time for each picture"""
    keep_best: bool = True
    """Whether the result is the state with the lowest loss"""
    patience: int = 0
    """Validations without a new best loss after which the run ends; 0 means never"""
    pivot_patience: int = 0
    """Validations without a new best of its own after which a concept freezes; 0 means never"""

    def __post_init__(self) -> None:
        for name in ("every", "draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: use at least 1.")
        for name in ("patience", "pivot_patience"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: use 0 (off) or more.")


def validate(run: Run, data: TrainingData, draws: int) -> dict[str, float]:
    """Mean loss of the held-out pictures, over all and by concept; waits for the device once.

    The result is the same bit for bit each time: a picture gets the same noises at times spread
    evenly over the schedule. Nothing in the run changes.
    """
    with torch.no_grad(), run.averaged():
        losses = torch.stack([_loss(run, data, place, draws) for place in shown(data)])
    numbers: list[float] = losses.double().tolist()  # pyright: ignore
    names = [mentioned(data.captions[text]) for _, text in shown(data)]
    groups = {ALL: numbers}
    for concept in sorted(frozenset[str]().union(*names)):
        groups[concept] = [n for n, found in zip(numbers, names, strict=True) if concept in found]
    return {name: sum(values) / len(values) for name, values in groups.items()}


def shown(data: TrainingData) -> list[tuple[int, int]]:
    """Indices of the latent and the caption of each picture, the first where it has several."""
    views = [view[0] for view in data.views] or list(range(len(data.latents)))
    texts = [text[0] for text in data.texts] or list(range(len(views)))
    return list(zip(views, texts, strict=True))


def _loss(run: Run, data: TrainingData, place: tuple[int, int], draws: int) -> Tensor:
    """The loss of one picture, a scalar."""
    batch, denoiser = _draws(data, place, draws, run.config.seed), run.parts.denoiser
    noised = denoiser.noised(batch.latents, batch.noise, batch.positions)
    conditions = run.conditions.of_step(batch.captions)
    output = denoiser.predict(noised, conditions.of(batch.captions), batch.crops)
    objective, flow = plain(run.config.objective), denoiser.is_flow
    return errors(output, noised.target, noised, objective, is_flow=flow, mask=batch.mask).mean()


def _draws(data: TrainingData, place: tuple[int, int], draws: int, seed: int) -> Batch:
    """One picture under several noises, in the middle of as many equal parts of the schedule."""
    view, text = place
    latent = data.latents[view]
    rng = generator(seed, "validation", view)
    noise = torch.randn((draws, *latent.shape), generator=rng)
    mask = data.masks[view] if data.masks else None
    return Batch(
        latents=latent.expand(draws, *latent.shape).clone(),
        noise=noise,
        offset=torch.zeros(draws, latent.shape[0]),
        positions=(torch.arange(draws, dtype=torch.float64) + 0.5) / draws,
        captions=(data.captions[text],) * draws,
        crops=(data.crops[view],) * draws,
        mask=None if mask is None else mask.expand(draws, *mask.shape).clone(),
    )


History = Sequence[Mapping[str, Any]]
"""The results so far: {"step": n, "losses": {"all": x, "<concept>": y}}"""


def best_step(history: History, name: str = ALL) -> int | None:
    """The first step with the lowest loss; None before the first validation."""
    records = [record for record in history if name in record["losses"]]
    best = min(records, key=lambda record: record["losses"][name], default=None)
    return best["step"] if best else None


def without_progress(history: History, name: str = ALL) -> int:
    """The number of validations since the best one."""
    best = best_step(history, name)
    return sum(record["step"] > best for record in history) if best is not None else 0


def is_over(history: History, patience: int) -> bool:
    """Whether there has been no new best for `patience` validations."""
    return patience > 0 and without_progress(history) >= patience


def stalled(history: History, concepts: Sequence[str], patience: int) -> list[str]:
    """The concepts whose own loss has had no new best for `patience` validations."""
    return [c for c in concepts if patience > 0 and without_progress(history, c) >= patience]
