"""Scores of pictures by the host's vision models, with reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from comfy.clip_vision import ClipVisionModel
from comfy.sd import CLIP
from torch import Tensor

from ....training.evaluation.metrics import (
    ClipScore,
    all_cosines,
    clip_score,
    frechet_distance,
    normalized_distance,
    paired_cosines,
)
from .features import picture_features, text_features


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """A Frechet distance, and its ratio to the base model's (NaN without one)."""

    distance: float
    normalized: float
    report: str


def score_against_texts(
    vision: ClipVisionModel, pictures: Tensor, clip: CLIP | None, prompts: Sequence[str]
) -> tuple[ClipScore, str]:
    """CLIP-T: each picture with its own text, or all pictures with a single one."""
    if clip is None:
        raise ValueError(
            "CLIP-T compares with prompts: connect the text encoder of the same CLIP to clip, or "
            "choose reference pictures."
        )
    texts = _texts(prompts, len(pictures))
    features = picture_features(vision, pictures)
    cosines = paired_cosines(features, text_features(clip, texts, features.shape[1]))
    score = clip_score(cosines)
    return score, _score_report("CLIP-T", score, f"{len(pictures)} images, each with its prompt")


def score_against_pictures(
    vision: ClipVisionModel, pictures: Tensor, references: Tensor | None
) -> tuple[ClipScore, str]:
    """CLIP-I: each picture with each reference picture."""
    if references is None:
        raise ValueError(
            "CLIP-I compares with reference pictures: connect them to references, or choose "
            "prompts."
        )
    features = [picture_features(vision, batch) for batch in (pictures, references)]
    score = clip_score(all_cosines(*features))
    pairs = f"{len(pictures)} images, each with each of {len(references)} references"
    return score, _score_report("CLIP-I", score, pairs)


def distance_of_sets(
    vision: ClipVisionModel, pictures: Tensor, references: Tensor, base: Tensor | None
) -> Distance:
    """The Frechet distance of pictures from references, also relative to the base pictures'."""
    target = picture_features(vision, references)
    features = picture_features(vision, pictures)
    distance, normalized = frechet_distance(features, target), math.nan
    lines = [
        f"Frechet distance {distance:.4g} of {len(pictures)} images from {len(references)} "
        f"references, by vision features {features.shape[1]} wide"
    ]
    if base is not None:
        base_distance = frechet_distance(picture_features(vision, base), target)
        normalized = normalized_distance(distance, base_distance)
        lines.append(f"{normalized:.3f} of the base model's {base_distance:.4g}")
        if len(base) != len(pictures):
            lines.append(
                f"The base has {len(base)} images: fewer images make a distance larger, so "
                "use the same number in both sets."
            )
    return Distance(distance=distance, normalized=normalized, report="\n".join(lines))


def _texts(prompts: Sequence[str], count: int) -> list[str]:
    texts = [line.strip() for line in prompts if line.strip()]
    if len(texts) == 1:
        return texts * count
    if len(texts) != count:
        raise ValueError(
            f"There are {len(texts)} prompts and {count} images: write one line for all "
            "images, or a line for each."
        )
    return texts


def _score_report(kind: str, score: ClipScore, pairs: str) -> str:
    return f"{kind} of {pairs}: score {score.score:.4f}, cosine x 100 {100 * score.cosine:.2f}"
