"""Lists that users write as text into a widget."""

from __future__ import annotations

import re

MOST_SEEDS = 10000
"""The longest range."""


def numbers(text: str, field: str) -> list[float]:
    """Numbers with commas or blanks between them; ValueError names the field."""
    try:
        found = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        found = []
    if not found:
        raise ValueError(f'{field} is "{text}": write numbers such as 0, 0.5, 1.')
    return found


def seed_numbers(text: str) -> list[int]:
    """Whole numbers and ranges such as 1-4, with commas or blanks between them."""
    found: list[int] = []
    for word in text.replace(",", " ").split():
        first, _, last = word.partition("-")
        bounds = [int(part) for part in (first, last or first) if re.fullmatch(r"\d+", part)]
        if len(bounds) < 2 or not 0 <= bounds[1] - bounds[0] < MOST_SEEDS or bounds[1] >= 2**64:
            raise ValueError(
                f'"{word}" is not a seed: write a whole number such as 7, or a range such as 1-4.'
            )
        found += range(bounds[0], bounds[1] + 1)
    if not found:
        raise ValueError("There are no seeds: write whole numbers and ranges such as 1, 2, 5-9.")
    return found


def lines(text: str) -> list[str]:
    """The lines of a text that hold anything."""
    return [line.strip() for line in text.splitlines() if line.strip()]
