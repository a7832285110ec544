"""Scores of a trained model: shares from 0 to 1, counted by the judge of the sprite world."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from world.concepts import CREW, HATCHING, NEW_COLORS, NEW_SHAPES
from world.judge import Verdict, judge
from world.sampling import Models, sample
from world.sprites import COLORS, SHAPES, Scene, held_out_scenes

from .methods import RANK, RATES, adapter_name
from .subjects import COLOR, HEART, SCATTERED, STYLE, Asked

ALL_SHAPES = {**SHAPES, **NEW_SHAPES, **{name: member.bitmap for name, member in CREW.items()}}
ALL_COLORS = {**COLORS, **NEW_COLORS}
BASE_SEED = 10_000
LEARNED = 0.9
"""Fidelity from which a concept counts as learned."""
JUDGED = ("fidelity", "following", "base_kept")
"""The scores that adapters are compared by."""
Row = Mapping[str, Any]
"""An entry of learning.json: the cell, its scores and its cost."""
Rows = Sequence[Row]


def look(pixels: Tensor, concept: str) -> Verdict:
    """Judge a picture among all shapes and colors; hatching counts only where it is the concept."""
    if concept == STYLE:
        return judge(pixels, SHAPES, COLORS, hatching=HATCHING)
    return judge(pixels, ALL_SHAPES, ALL_COLORS)


def shows(verdict: Verdict, concept: str) -> bool:
    """Whether a picture shows the concept: a shape in its own colors, a color or the hatching."""
    if concept == STYLE:
        return verdict.hatched
    if concept == HEART:
        return verdict.shape == HEART
    if concept == COLOR:
        return verdict.color == COLOR
    return verdict.shape == concept and dict(verdict.colors) == dict(CREW[concept].inks)


def follows(verdict: Verdict, asked: Asked) -> bool:
    """Whether the background is as the prompt says, and so are color and shape if it names them."""
    return (
        verdict.background == asked.background
        and (not asked.color or verdict.color == asked.color)
        and (not asked.shape or verdict.shape == asked.shape)
    )


def leaks(verdict: Verdict, concept: str) -> bool:
    """Whether a picture shows a new thing other than the one that was asked for."""
    return verdict.shape in {*CREW, *NEW_SHAPES} - {concept}


def count(pictures: Tensor, asked: Sequence[Asked]) -> dict[str, float]:
    """fidelity, following and leakage of the samples of prompts with a concept."""
    pairs = zip(pictures, asked, strict=True)
    judged = [(look(pixels, prompt.concept), prompt) for pixels, prompt in pairs]
    return {
        "fidelity": share(shows(verdict, prompt.concept) for verdict, prompt in judged),
        "following": share(follows(verdict, prompt) for verdict, prompt in judged),
        "leakage": share(leaks(verdict, prompt.concept) for verdict, prompt in judged),
    }


def fidelity(models: Models, asked: Sequence[Asked]) -> float:
    """Share of the samples that show their concept."""
    return count(sample(models, [prompt.prompt for prompt in asked]), asked)["fidelity"]


def variety(pictures: Tensor, asked: Sequence[Asked]) -> float | None:
    """How much samples of one prompt differ: the standard deviation, averaged over all pixels.

    `pictures` is (n, height, width, 3) in 0..1. None if no prompt has two samples.
    """
    prompts = [prompt.prompt for prompt in asked]
    groups = [pictures[[p == prompt for p in prompts]] for prompt in dict.fromkeys(prompts)]
    several = [group.float().std(dim=0).mean() for group in groups if len(group) > 1]
    return float(torch.stack(several).mean()) if several else None


def base_right(models: Models, number: int) -> tuple[float, float]:
    """Shares of the base's held-out prompts that are drawn correctly, and that show a concept."""
    scenes = held_out_scenes()[:number]
    pictures = sample(models, [scene.caption for scene in scenes], first_seed=BASE_SEED)
    verdicts = [look(picture, "") for picture in pictures]
    right = share(is_scene(v, scene) for v, scene in zip(verdicts, scenes, strict=True))
    return right, share(leaks(verdict, "") for verdict in verdicts)


def is_scene(verdict: Verdict, scene: Scene) -> bool:
    seen = (verdict.shape, verdict.color, verdict.background)
    return seen == (scene.shape, scene.color, scene.background)


def share(hits: Iterable[bool]) -> float:
    """Hits over all; 0 of nothing is 0."""
    counted = list(hits)
    return sum(counted) / max(len(counted), 1)


def transferred(samples: int) -> int:
    """Samples of each of a cell's three transfers: two fifths of the others."""
    return max(1, samples * 2 // 5)


def thinned(asked: Sequence[Asked], number: int) -> list[Asked]:
    """At most `number` prompts, evenly spaced, so that trained and new backgrounds are kept."""
    count = min(number, len(asked))
    return [asked[i * len(asked) // count] for i in range(count)]


def best_rate(rows: Rows, kind: str) -> float | None:
    """The learning rate with the highest mean of the judged scores; None until all have a row."""
    scores = {
        row["method"]: sum(row[name] for name in JUDGED)
        for row in rows
        if (row["subject"], row["seed"], row["budget"]) == (SCATTERED, 0, 1)
    }
    names = {rate: adapter_name(kind, RANK, rate) for rate in RATES}
    if not scores.keys() >= set(names.values()):
        return None
    return max(RATES, key=lambda rate: scores[names[rate]])
