"""The captions of a picture in training: its own, or variations of it."""

from __future__ import annotations

from ..records import Record
from .vary import vary


def texts_of(record: Record, seed: int) -> list[str]:
    """All captions of a picture; only its own if nothing varies."""
    if record.variation is None:
        return [record.caption]
    return vary(
        record.caption, record.concept, record.class_word, record.variation, seed, record.name
    )
