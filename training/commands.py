"""What a run can be asked while it trains; sent into the loop, done before its next step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finish:
    """End the loop now, as if all steps were done."""


@dataclass(frozen=True, slots=True)
class Pivot:
    """Freeze the vectors of a concept now and for good."""

    concept: str


Command = Finish | Pivot
