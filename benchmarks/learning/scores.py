"""Scores of a trained model, as shares from 0 to 1, counted by the judge of the sprite world."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from world.concepts import CREW, HATCHING, NEW_COLORS, NEW_SHAPES
from world.judge import Verdict, judge
from world.sampling import Models, sample
from world.sprites import COLORS, SHAPES, Scene, held_out_scenes

from .subjects import COLOR, HEART, STYLE, Asked

ALL_SHAPES = {**SHAPES, **NEW_SHAPES, **{name: one.bitmap for name, one in CREW.items()}}
ALL_COLORS = {**COLORS, **NEW_COLORS}
BASE_SEED = 10_000


def look(pixels: Tensor, concept: str) -> Verdict:
    """The verdict among everything there is; hatching is looked for where it is the concept."""
    if concept == STYLE:
        return judge(pixels, SHAPES, COLORS, hatching=HATCHING)
    return judge(pixels, ALL_SHAPES, ALL_COLORS)


def shows(verdict: Verdict, concept: str) -> bool:
    """Whether the picture shows the concept: a shape in its own colors, a color or the hatching."""
    if concept == STYLE:
        return verdict.hatched
    if concept == HEART:
        return verdict.shape == HEART
    if concept == COLOR:
        return verdict.color == COLOR
    return verdict.shape == concept and dict(verdict.colors) == dict(CREW[concept].inks)


def follows(verdict: Verdict, asked: Asked) -> bool:
    """Whether background, and color and shape where the prompt names them, are as asked."""
    return (
        verdict.background == asked.background
        and (not asked.color or verdict.color == asked.color)
        and (not asked.shape or verdict.shape == asked.shape)
    )


def leaks(verdict: Verdict, concept: str) -> bool:
    """Whether the picture shows another new thing than the one that was asked for."""
    return verdict.shape in {*CREW, *NEW_SHAPES} - {concept}


def count(pictures: Tensor, asked: Sequence[Asked]) -> dict[str, float]:
    """fidelity, following and leakage of samples of prompts with a concept."""
    seen = [(look(picture, one.concept), one) for picture, one in zip(pictures, asked, strict=True)]
    return {
        "fidelity": share(shows(verdict, one.concept) for verdict, one in seen),
        "following": share(follows(verdict, one) for verdict, one in seen),
        "leakage": share(leaks(verdict, one.concept) for verdict, one in seen),
    }


def fidelity(models: Models, asked: Sequence[Asked]) -> float:
    """Share of the samples that show their concept."""
    return count(sample(models, [one.prompt for one in asked]), asked)["fidelity"]


def variety(pictures: Tensor, asked: Sequence[Asked]) -> float | None:
    """How much samples of one prompt differ: their standard deviation, mean of pixels and prompts.

    `pictures` is (n, height, width, 3) in 0..1. None where no prompt was asked twice.
    """
    prompts = [one.prompt for one in asked]
    groups = [pictures[[p == prompt for p in prompts]] for prompt in dict.fromkeys(prompts)]
    several = [group.float().std(dim=0).mean() for group in groups if len(group) > 1]
    return float(torch.stack(several).mean()) if several else None


def base_right(models: Models, number: int) -> tuple[float, float]:
    """Of the base's own held-out prompts: the share drawn right, the share that show a concept."""
    scenes = held_out_scenes()[:number]
    pictures = sample(models, [scene.caption for scene in scenes], first_seed=BASE_SEED)
    verdicts = [look(picture, "") for picture in pictures]
    right = share(is_scene(v, scene) for v, scene in zip(verdicts, scenes, strict=True))
    return right, share(leaks(verdict, "") for verdict in verdicts)


def is_scene(verdict: Verdict, scene: Scene) -> bool:
    """Whether shape, color and background are the scene's."""
    found = (verdict.shape, verdict.color, verdict.background)
    return found == (scene.shape, scene.color, scene.background)


def share(hits: Iterable[bool]) -> float:
    """Hits over all; 0 of nothing is 0."""
    counted = list(hits)
    return sum(counted) / max(len(counted), 1)


def transferred(samples: int) -> int:
    """Samples of each of the transfers, of which a cell has three: two fifths."""
    return max(1, samples * 2 // 5)


def thinned(asked: Sequence[Asked], number: int) -> list[Asked]:
    """`number` of the prompts, or all, evenly: on backgrounds that were trained and others."""
    kept = min(number, len(asked))
    return [asked[i * len(asked) // kept] for i in range(kept)]
