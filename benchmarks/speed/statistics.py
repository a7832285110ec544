"""Medians and ratios of interleaved pairs, with intervals that assume no distribution."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """A median of `count` values, with the ends of its confidence interval."""

    median: float
    low: float
    high: float
    count: int


def median_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The median with its interval from order statistics, of at least `level`.

    The number of values below the true median is binomial(n, 1/2) for any distribution. Fewer than
    6 values have no 95 % interval and get their range.
    """
    ordered, count = sorted(values), len(values)
    cut = 0
    while 2 * _below(count, cut + 1) <= 1 - level:
        cut += 1
    ends = max(cut - 1, 0)
    return Interval(statistics.median(ordered), ordered[ends], ordered[count - 1 - ends], count)


def _below(count: int, cut: int) -> float:
    """The probability that fewer than `cut` of `count` fair coins are heads."""
    return sum(math.comb(count, k) for k in range(cut)) / 2**count


def ratio_interval(ours: Sequence[float], other: Sequence[float]) -> Interval:
    """The median of ours / other, pair by pair, for values measured in turns."""
    return median_interval([a / b for a, b in zip(ours, other, strict=True)])


def bootstrap_ratio(
    sessions: Sequence[Sequence[float]], level: float = 0.95, draws: int = 4000
) -> Interval:
    """The median of the ratios of all sessions, with its interval from a bootstrap in two stages.

    It draws sessions and then ratios in each with replacement, since the ratios of one session have
    more in common than those of several (Davison and Hinkley 1997, section 3.8).
    """
    rng = random.Random(0)
    medians: list[float] = []
    for _ in range(draws):
        drawn = rng.choices(sessions, k=len(sessions))
        medians.append(statistics.median(r for one in drawn for r in rng.choices(one, k=len(one))))
    medians.sort()
    cut = round((1 - level) / 2 * draws)
    every = [ratio for session in sessions for ratio in session]
    return Interval(statistics.median(every), medians[cut], medians[-1 - cut], len(every))
