"""The regular expression that finds a bundle's names in a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterable

EXTENSION = r"\.(?:safetensors|pt|bin)\b"
# What would make a longer name of it; a backslash before a bracket is an escape of the prompt.
_LONGER = rf"(?![\w/-]|\\(?![()])|\.(?=\w)(?!{EXTENSION[2:]}))"
_EARLIER = r"(?<![\w/.:-])"


def name_pattern(names: Iterable[str], bare: Iterable[str]) -> re.Pattern[str] | None:
    """Groups `name`, after `embedding:`, and `bare`, a whole word; the longest is found first.

    Names may hold any character. None when there are no names.
    """
    called, alone = _alternatives(names), _alternatives(bare, _EARLIER)
    if not called:
        return None
    pattern = rf"(?i:embedding):\s*(?P<name>{called})(?:{EXTENSION})?"
    return re.compile(rf"{pattern}|(?P<bare>{alone})" if alone else pattern)


def unescaped(match: re.Match[str]) -> str:
    """The name that was found, without the backslashes that a prompt puts before brackets."""
    found = match["name"] or match["bare"]
    return found.replace("\\(", "(").replace("\\)", ")")


def _alternatives(names: Iterable[str], before: str = "") -> str:
    ordered = sorted(set(names), key=len, reverse=True)
    return "|".join(_one(name, before) for name in ordered)


def _one(name: str, before: str) -> str:
    escaped = re.escape(name).replace(r"\(", r"\\?\(").replace(r"\)", r"\\?\)")
    starts, ends = _is_word(name[0]), _is_word(name[-1])
    return (before if starts else "") + escaped + (_LONGER if ends else "")


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
