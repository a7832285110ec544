"""Commands to a run while it trains: sent into the loop and carried out before its next step."""

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
    """The live names that commands freeze: a concept's own and its negative one."""
    concepts = [command.concept for command in commands if isinstance(command, Pivot)]
    names = [name for concept in concepts for name in (concept, concept + NEGATIVE)]
    return [name for name in names if name in live]
