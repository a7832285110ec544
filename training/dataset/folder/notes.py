"""Oddities of files: a sentence for each, and one sentence for many of a kind."""

from __future__ import annotations

from ..records import listed

ALONE = 3
"""Up to this many oddities of a kind have a sentence each."""


class Notes:
    """Collects oddities in the order in which they are found."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, str]] = {}

    def add(self, sentence: str, name: str = "") -> None:
        """Note an oddity of the file `name`; sentences that differ in the name alone are a kind."""
        kind = sentence.replace(name, "\0") if name else sentence
        self._kinds.setdefault(kind, {}).setdefault(name, sentence)

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def sentences(self) -> tuple[str, ...]:
        """The sentences; of a kind with many, the first one and the names of the others."""
        lines: list[str] = []
        for kind in self._kinds.values():
            names, sentences = list(kind), list(kind.values())
            if len(names) > ALONE:
                others = f"The same is true of {len(names) - 1} others: {listed(names[1:], ALONE)}."
                lines.append(f"{sentences[0]} {others}")
            else:
                lines += sentences
        return tuple(lines)
