"""The one rule for where the placeholders of concepts are in a caption."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Python's \w does not match the accents of decomposed text, which macOS writes.
WORD = r"[\w\u0300-\u036f]"


def placeholder_pattern(placeholders: Iterable[str]) -> re.Pattern[str]:
    """Match any placeholder as a whole word, the longest first, case-sensitive.

    "TOK" matches in "TOK's" and "(TOK:1.2)", but not in "TOKYO", "TOK2" or "my_TOK". If a
    placeholder starts or ends with another character, as "<s0>", no boundary is needed there.
    """
    words = sorted(set(placeholders), key=lambda word: (-len(word), word))
    if "" in words:
        raise ValueError("A placeholder is empty: enter the word that stands for the concept.")
    # An empty alternation would match everywhere; "(?!)" matches nowhere.
    return re.compile("|".join(map(_bounded, words)) or "(?!)")


def split_caption(caption: str, placeholders: Iterable[str]) -> tuple[tuple[bool, str], ...]:
    """Split a caption into parts (is placeholder, text); none is empty, and none is lost."""
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
