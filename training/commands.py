"""What a run can be asked while it trains; sent into the loop, done before its next step."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from .words.concepts import NEGATIVE


@dataclass(frozen=True, slots=True)
class Finish:
    """End the loop now, as if all steps were done."""


@dataclass(frozen=True, slots=True)
class Pivot:
    """Freeze the vectors of a concept now and for good."""

    concept: str


Command = Finish | Pivot


def to_freeze(commands: Sequence[Command], live: Container[str]) -> list[str]:
    """Which of the live vectors commands freeze: a concept's own and its negative ones."""
    asked = [command.concept for command in commands if isinstance(command, Pivot)]
    return [name for one in asked for name in (one, one + NEGATIVE) if name in live]
