"""Two ways to compute the same thing, timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from speed.statistics import ratio_interval

Work = Callable[[], object]
WARM = 2
"""Untimed pairs at the start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """How another way compares with the pack's on one case."""

    idea: str
    case: str
    pairs: int
    ours: float
    """Median CPU seconds of the pack's way"""
    ratio: float
    """CPU seconds of the other way over ours: median of the pairs, and its 95 % interval"""
    low: float
    high: float
    note: str = ""


def compare(idea: str, case: str, ours: Work, other: Work, pairs: int) -> Row:
    """Time both ways in CPU seconds, which other work on the machine disturbs less."""
    spent: dict[str, list[float]] = {"ours": [], "other": []}
    ways = {"ours": ours, "other": other}
    for pair in range(-WARM, pairs):
        # The order changes from pair to pair.
        for who in ("ours", "other") if pair % 2 else ("other", "ours"):
            began = time.process_time()
            ways[who]()
            if pair >= 0:
                spent[who].append(time.process_time() - began)
    ratio = ratio_interval(spent["other"], spent["ours"])
    middle = sorted(spent["ours"])[pairs // 2]
    return Row(
        idea=idea, case=case, pairs=pairs, ours=middle,
        ratio=ratio.median, low=ratio.low, high=ratio.high,
    )  # fmt: skip
