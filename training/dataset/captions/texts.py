"""What is read of a picture while training: its caption, or what is drawn from it."""

from __future__ import annotations

from ..records import Record
from .vary import vary


def texts_of(record: Record, seed: int) -> list[str]:
    """All texts of a picture; the caption alone when nothing varies."""
    if record.variation is None:
        return [record.caption]
    return vary(
        record.caption, record.concept, record.class_word, record.variation, seed, record.name
    )
