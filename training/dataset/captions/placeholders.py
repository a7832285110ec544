"""Where the placeholders of concepts stand in a caption: the one rule that everything shares."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Python's \w misses the accents of decomposed text, as macOS writes it.
WORD = r"[\w\u0300-\u036f]"


def placeholder_pattern(placeholders: Iterable[str]) -> re.Pattern[str]:
    """Match any placeholder as a whole word, the longest first, case-sensitive.

    "TOK" is neither in "TOKYO" nor in "TOK2" nor in "my_TOK", but it is in "TOK's" and
    "(TOK:1.2)". An edge that is no word character, as in "<s0>", needs no boundary.
    """
    words = sorted(set(placeholders), key=lambda word: (-len(word), word))
    if "" in words:
        raise ValueError("A placeholder is empty: give the word that stands for the concept.")
    # An empty alternation would match everywhere; "(?!)" matches nowhere.
    return re.compile("|".join(map(_bounded, words)) or "(?!)")


def split_caption(caption: str, placeholders: Iterable[str]) -> tuple[tuple[bool, str], ...]:
    """Split into (is placeholder, text) parts, none empty, that join to the caption again."""
    parts: list[tuple[bool, str]] = []
    end = 0
    for match in placeholder_pattern(placeholders).finditer(caption):
        parts += [(False, caption[end : match.start()]), (True, match.group())]
        end = match.end()
    parts.append((False, caption[end:]))
    return tuple(part for part in parts if part[1])


def _bounded(word: str) -> str:
    before = f"(?<!{WORD})" if re.match(WORD, word) else ""
    after = f"(?!{WORD})" if re.match(WORD, word[-1]) else ""
    return f"{before}{re.escape(word)}{after}"
