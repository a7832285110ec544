"""Captions before and after an edit."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import Record

SHOWN = 20


def before_after(before: Sequence[Record], after: Sequence[Record], shown: int = SHOWN) -> str:
    """How many captions change, and the first changes with the old and new text."""
    changed = [
        (old, new) for old, new in zip(before, after, strict=True) if old.caption != new.caption
    ]
    lines = [f"{len(changed)} of {len(before)} captions change"]
    for old, new in changed[:shown]:
        lines += [new.name, f"  - {_line(old.caption)}", f"  + {_line(new.caption)}"]
    if len(changed) > shown:
        lines.append(f"and {len(changed) - shown} more")
    return "\n".join(lines)


def _line(text: str) -> str:
    return text.replace("\n", " ⏎ ") or "(no caption)"
