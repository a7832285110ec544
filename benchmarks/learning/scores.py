"""Scores of a trained model, as shares from 0 to 1, counted by the judge of the sprite world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from world.concepts import CREW, NEW_COLORS
from world.judge import Verdict, judge
from world.measure_base import count, sample
from world.sprites import COLORS, SHAPES, held_out_scenes

CHARACTER = "robot"
BACKGROUNDS = tuple(COLORS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What is counted in one cell of the benchmark."""

    fidelity: float
    """share of the samples that show the concept"""
    following: float
    """share of the samples with the background that the prompt asks for"""
    base_kept: float
    """share of the base's own prompts that are still drawn right"""


def prompts_for(trigger: str, number: int) -> list[tuple[str, str]]:
    """(prompt, background) in turn over all backgrounds, two of which no picture had."""
    grounds = [BACKGROUNDS[i % len(BACKGROUNDS)] for i in range(number)]
    return [(f"a {trigger} on a {ground} background", ground) for ground in grounds]


def score(models: tuple[Any, Any, Any], trigger: str, number: int) -> tuple[Scores, Tensor]:
    """Sample `number` prompts with the concept and as many of the base's own, and count."""
    pairs = prompts_for(trigger, number)
    scenes = held_out_scenes()[:number]
    with torch.inference_mode():
        pictures = sample(*models, [prompt for prompt, _ in pairs])
        known = sample(*models, [scene.caption for scene in scenes], first_seed=10_000)
    verdicts = [judge_character(picture) for picture in pictures]
    scores = Scores(
        fidelity=share([is_character(verdict) for verdict in verdicts]),
        following=share([v.background == b for v, (_, b) in zip(verdicts, pairs, strict=True)]),
        base_kept=count(known, scenes)["all"],
    )
    return scores, pictures


def judge_character(picture: Tensor) -> Verdict:
    """The verdict among the base's shapes and colors and the character's own."""
    shapes = {**SHAPES, CHARACTER: CREW[CHARACTER].bitmap}
    return judge(picture, shapes, {**COLORS, **NEW_COLORS})


def is_character(verdict: Verdict) -> bool:
    """Whether the picture shows the character in its own two colors."""
    return verdict.shape == CHARACTER and dict(verdict.colors) == dict(CREW[CHARACTER].inks)


def share(hits: Sequence[bool]) -> float:
    """Hits over all."""
    return sum(hits) / len(hits)
