"""The numbers that a run reports over its steps: one list for the journal, plots and monitor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """A number over the steps of a run."""

    key: str
    """Its key in a line of report.jsonl"""
    title: str
    """English, translated in locales/*/main.json; so is the unit"""
    unit: str = ""
    smooth: bool = False
    """Whether it scatters from step to step, and so is drawn thin with its exponential mean"""


LOSS = Series(key="losses", title="loss", smooth=True)
CONCEPTS = Series(key="concepts", title="loss per concept")
VALIDATION = Series(key="validation", title="validation loss")
NORMS = Series(key="norms", title="gradient norm")
RATES = Series(key="rates", title="learning rate")
PRODIGY_D = Series(key="d", title="Prodigy's d")
MOVEMENT = Series(key="movement", title="movement of the vectors", unit="relative to their length")

SERIES = (LOSS, CONCEPTS, VALIDATION, NORMS, RATES, PRODIGY_D, MOVEMENT)
"""In the order in which they are drawn"""

Line = Mapping[str, Any]


def points_of(lines: Sequence[Line], key: str) -> dict[str, list[tuple[int, float]]]:
    """The points (step, value) that reports hold under a key, by name.

    `pointsOf` in web/runs/series.js is the same function.
    """
    points = defaultdict[str, list[tuple[int, float]]](list)
    for line in lines:
        for name, step, value in _values(line["step"], line.get(key) or {}):
            if isinstance(value, int | float) and not isinstance(value, bool):
                points[name].append((step, value))
    return dict(points)


def _values(step: int, reported: Any) -> Iterator[tuple[str, int, Any]]:
    """A list holds a value for each step up to the report's; an object, one for each name.

    Where a name has a value for each text encoder, the first encoder's is drawn.
    """
    if isinstance(reported, list):
        values = cast("list[Any]", reported)
        yield from (("", step - len(values) + place, v) for place, v in enumerate(values, start=1))
        return
    if not isinstance(reported, Mapping):
        return
    for name, value in cast("Mapping[str, Any]", reported).items():
        of_encoders = cast("dict[str, Any]", value) if isinstance(value, dict) else {name: value}
        yield name, step, next(iter(of_encoders.values()), None)
