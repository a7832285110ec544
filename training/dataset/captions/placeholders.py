"""The one rule for where a word of the user's begins and ends, in captions and in prompts."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable

# Letters of scripts that are written without blanks, and Korean, whose particles follow a noun
# directly: Thai, Lao, Burmese, Khmer, kana, ideographs and Hangul. A word may touch them.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3031-\u303c"
    "\u3040-\u318f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff"
    "\uf900-\ufaff\uff66-\uffdc\U00020000-\U0003ffff"
)


@functools.cache
def marks() -> str:
    """Ranges of the marks that belong to the letter before them, for a class of a pattern.

    Python's \\w has none of them, such as the accents of decomposed text, which macOS writes. What
    changes a symbol, as in emoji, belongs to no word.
    """
    symbols = {*range(0x20D0, 0x2100), *range(0xFE00, 0xFE10)}
    every = {i for i in range(0x300, 0x20000) if unicodedata.category(chr(i)) in ("Mn", "Mc")}
    found = every - symbols
    starts = sorted(i for i in found if i - 1 not in found)
    ends = sorted(i for i in found if i + 1 not in found)
    return "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(starts, ends, strict=True))


@functools.cache
def longer() -> str:
    """The pattern of a character that would make a word before it longer."""
    return rf"(?:[{marks()}]|(?![{UNSPACED}])\w)"


@functools.cache
def edges(word: str) -> tuple[str, str]:
    """Patterns of no width for the places before and behind a word, where another begins or ends.

    "TOK" is a word in "TOK's", "TOK-like", "(TOK:1.2)" and between Chinese letters, but not in
    "TOKYO", "TOK2" or "my_TOK". A word that starts or ends with another character, as "<s0>",
    needs no edge there.
    """
    spaced = rf"(?![{UNSPACED}])\w"
    before = rf"(?:(?<![\w{marks()}])|(?<=[{UNSPACED}]))" if re.match(spaced, word) else ""
    if re.match(rf"(?![{UNSPACED}])[\w{marks()}]", word[-1]):
        return before, rf"(?!{longer()})"
    # A mark is never the start of a word: it changes the letter before it.
    return before, rf"(?![{marks()}])" if re.match(rf"[\w{marks()}]", word[-1]) else ""


def whole_word(word: str) -> str:
    """The pattern of a word between its edges."""
    before, behind = edges(word)
    return f"{before}{re.escape(word)}{behind}"


def placeholder_pattern(placeholders: Iterable[str]) -> re.Pattern[str]:
    """Match any placeholder as a whole word, the longest first, case-sensitive."""
    words = sorted(set(placeholders), key=lambda word: (-len(word), word))
    if "" in words:
        raise ValueError("A placeholder is empty: enter the word that stands for the concept.")
    # An empty alternation would match everywhere; "(?!)" matches nowhere.
    return re.compile("|".join(map(whole_word, words)) or "(?!)")


def split_caption(caption: str, placeholders: Iterable[str]) -> tuple[tuple[bool, str], ...]:
    """Split a caption into parts (is placeholder, text); none is empty, and none is lost."""
    parts: list[tuple[bool, str]] = []
    end = 0
    for match in placeholder_pattern(placeholders).finditer(caption):
        parts += [(False, caption[end : match.start()]), (True, match.group())]
        end = match.end()
    parts.append((False, caption[end:]))
    return tuple(part for part in parts if part[1])
