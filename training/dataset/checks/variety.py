"""How much the pictures of a set differ, and which are the most alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..records import Record
from .measure import Measures, signs

BLOCK = 1024
MOST = 3
CLOSE = 1 - 2 * 60 / 256
"""Likeness of hashes that differ in 60 of 256 bits. Measured on drawings, a picture rotated by 3
degrees differs in 58 bits, and other pictures in 87 or more."""
FLAT = 0.04
"""Contrast below which a hash says almost nothing."""


@dataclass(frozen=True, slots=True)
class PicturePair:
    """Two pictures by their indices, and the cosine of their vectors."""

    left: int
    right: int
    likeness: float


@dataclass(frozen=True, slots=True)
class Variety:
    """The result of comparing every picture with every other."""

    mean: float
    """Mean likeness of two pictures; 1 in a set of copies."""
    pairs: tuple[PicturePair, ...]
    """The pairs that are the most alike, in order."""
    close: tuple[int, ...]
    """Pictures that are closer to another one than a limit."""


def variety(vectors: Tensor, limit: float = 2.0) -> Variety:
    """Compare all rows of (n, d), n >= 2, by their cosine, in blocks."""
    rows = torch.nn.functional.normalize(vectors.float(), dim=1)
    count = len(rows)
    # |sum of all|^2 is the sum of all products, including those of rows with themselves.
    total = float(rows.sum(0).square().sum()) - float(rows.square().sum())
    best: list[PicturePair] = []
    close: set[int] = set()
    for start in range(0, count, BLOCK):
        likeness = rows[start : start + BLOCK] @ rows[start:].T
        # Skip pairs of a picture with itself, and count each pair once.
        likeness = likeness.masked_fill(torch.ones_like(likeness).tril().bool(), -2.0)
        near = likeness >= limit
        close |= {start + int(i) for each in (0, 1) for i in near.any(1 - each).nonzero()}
        best = sorted([*best, *_best(likeness, start)], key=lambda pair: -pair.likeness)[:MOST]
    return Variety(total / (count * (count - 1)), tuple(best), tuple(sorted(close)))


def _best(likeness: Tensor, start: int) -> Iterator[PicturePair]:
    values, places = torch.topk(likeness.flatten(), min(MOST, likeness.numel()))
    for value, place in zip(values, places, strict=True):
        if value > -2.0:
            row, column = divmod(int(place), likeness.shape[1])
            yield PicturePair(start + row, start + column, float(value))


def distinct(measures: Sequence[Measures], clusters: Sequence[Sequence[int]]) -> list[int]:
    """Indices of pictures with meaningful hashes, one from each cluster of copies."""
    copies = {i for group in clusters for i in group[1:]}
    return [
        i
        for i, measure in enumerate(measures)
        if measure.likeness and measure.contrast > FLAT and i not in copies
    ]


def hash_variety(measures: Sequence[Measures], numbers: Sequence[int]) -> Variety | None:
    """Variety by hashes of light and dark; None for fewer than two pictures."""
    if len(numbers) < 2:
        return None
    return variety(torch.stack([signs(measures[i].likeness) for i in numbers]), CLOSE)


def feature_variety(features: Sequence[Tensor], numbers: Sequence[int]) -> Variety | None:
    """Variety by the features (d) of a vision model; None for fewer than two pictures."""
    if len(numbers) < 2:
        return None
    return variety(torch.stack([features[i] for i in numbers]))


def variety_line(variety: Variety, records: Sequence[Record], by: str) -> str:
    """The mean likeness of two pictures and the pairs that are the most alike, as one line."""
    pairs = ", ".join(
        f"{records[pair.left].name} and {records[pair.right].name} ({pair.likeness:.2f})"
        for pair in variety.pairs
    )
    return f"likeness of two images by {by}, 1 for the same: {variety.mean:.2f}; most: {pairs}"
