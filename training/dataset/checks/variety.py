"""How different the pictures of a set are from each other, and which are the most alike."""

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
"""Likeness of hashes that differ in 60 of 256 bits: a picture turned by 3 degrees differs in 58,
others in 87 and more, as measured on drawn pictures."""
FLAT = 0.04
"""Contrast below which a hash says next to nothing."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures by their numbers, and the cosine of their vectors."""

    left: int
    right: int
    likeness: float


@dataclass(frozen=True, slots=True)
class Variety:
    """What a comparison of every picture with every other says."""

    mean: float
    """Mean likeness of two pictures, 1 for a set of copies."""
    pairs: tuple[Pair, ...]
    """The most alike, the most alike first."""
    close: tuple[int, ...]
    """Pictures that come closer to another one than a limit."""


def variety(vectors: Tensor, limit: float = 2.0) -> Variety:
    """Compare all rows of (n, d) by their cosine, in blocks; n is 2 at least."""
    rows = torch.nn.functional.normalize(vectors.float(), dim=1)
    count = len(rows)
    # |sum of all|^2 is the sum of all products, those of rows with themselves among them.
    total = float(rows.sum(0).square().sum()) - float(rows.square().sum())
    best: list[Pair] = []
    close: set[int] = set()
    for start in range(0, count, BLOCK):
        likeness = rows[start : start + BLOCK] @ rows[start:].T
        # A picture and itself, and pairs that come the other way round, are none.
        likeness = likeness.masked_fill(torch.ones_like(likeness).tril().bool(), -2.0)
        near = likeness >= limit
        close |= {start + int(i) for each in (0, 1) for i in near.any(1 - each).nonzero()}
        best = sorted([*best, *_best(likeness, start)], key=lambda pair: -pair.likeness)[:MOST]
    return Variety(total / (count * (count - 1)), tuple(best), tuple(sorted(close)))


def _best(likeness: Tensor, start: int) -> Iterator[Pair]:
    values, places = torch.topk(likeness.flatten(), min(MOST, likeness.numel()))
    for value, place in zip(values, places, strict=True):
        if value > -2.0:
            row, column = divmod(int(place), likeness.shape[1])
            yield Pair(start + row, start + column, float(value))


def distinct(measures: Sequence[Measures], clusters: Sequence[Sequence[int]]) -> list[int]:
    """Numbers of pictures that can be compared by their hashes, one of each cluster of copies."""
    copies = {i for group in clusters for i in group[1:]}
    return [
        i
        for i, one in enumerate(measures)
        if one.likeness and one.contrast > FLAT and i not in copies
    ]


def hash_variety(measures: Sequence[Measures], numbers: Sequence[int]) -> Variety | None:
    """By places that are darker than their neighbors; None below two pictures."""
    if len(numbers) < 2:
        return None
    return variety(torch.stack([signs(measures[i].likeness) for i in numbers]), CLOSE)


def feature_variety(features: Sequence[Tensor], numbers: Sequence[int]) -> Variety | None:
    """By the features (d) of a vision model, one for each picture; None below two pictures."""
    if len(numbers) < 2:
        return None
    return variety(torch.stack([features[i] for i in numbers]))


def described(found: Variety, records: Sequence[Record], by: str) -> str:
    """One line: the mean likeness of two pictures, and the pairs that are the most alike."""
    pairs = ", ".join(
        f"{records[pair.left].name} and {records[pair.right].name} ({pair.likeness:.2f})"
        for pair in found.pairs
    )
    return f"likeness of two pictures by {by}, 1 for the same: {found.mean:.2f}; most: {pairs}"
