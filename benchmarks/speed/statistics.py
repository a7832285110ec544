"""Medians and the ratio of interleaved pairs, with an interval that assumes no distribution."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """A median with the ends of its interval."""

    median: float
    low: float
    high: float
    count: int


def median_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The median and its interval of order statistics, of at least `level` where there is one.

    The number of values below the true median is binomial(n, 1/2) whatever they are drawn from;
    fewer than 6 values have no interval of 95 % and get their range.
    """
    ordered, count = sorted(values), len(values)
    cut = 0
    while 2 * _below(count, cut + 1) <= 1 - level:
        cut += 1
    ends = max(cut - 1, 0)
    return Interval(statistics.median(ordered), ordered[ends], ordered[count - 1 - ends], count)


def _below(count: int, cut: int) -> float:
    """The chance that fewer than `cut` of `count` fair coins are heads."""
    return sum(math.comb(count, k) for k in range(cut)) / 2**count


def ratio_interval(ours: Sequence[float], other: Sequence[float]) -> Interval:
    """The ratio ours / other of values that were measured in turns."""
    return median_interval([a / b for a, b in zip(ours, other, strict=True)])
