"""File names: when two are the same, and the order that people expect."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath


def same_name(name: str) -> str:
    """A name in one case and with composed accents, in which file systems differ."""
    return unicodedata.normalize("NFC", name).casefold()


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key with numbers in their order, folder by folder: cat_2.png before cat_10.png."""
    path = PurePosixPath(name)
    parts: list[tuple[int, int, str]] = []
    for folder in path.parts[:-1]:
        parts += [*_numbered(folder), (-1, 0, "")]
    return [*parts, *_numbered(path.stem)], name


def _numbered(word: str) -> list[tuple[int, int, str]]:
    pieces = [piece for piece in re.split(r"(\d+)", same_name(word)) if piece]
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces]


def split_concept(folder: str) -> tuple[int, str] | None:
    """(repeats, words) of a folder name such as "10_TOK dog"; None for other names."""
    match = re.fullmatch(r"(\d{1,6})_(.+)", folder)
    return (max(1, int(match[1])), match[2].strip()) if match else None
