"""Files that anybody may have put where ours are expected: plain ones, and JSON that is ours."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO, cast

MOST_BYTES = 16 * 1024**2
"""A longer file of JSON is none of ours"""
_DEEPEST = 64
"""Levels of objects and lists in our own JSON are fewer than ten"""


class NotPlain(OSError):
    """A link, a device, a pipe or a folder where a file of ours is expected."""


def open_plain(path: Path, mode: str) -> BinaryIO:
    """Open a file that is a plain one under its own name; NotPlain for a link or a device.

    Writing through a link would change a file that is not ours, and a pipe would block.
    """
    if path.is_symlink():
        raise _not_plain(path)
    return cast("BinaryIO", open(path, mode, opener=_open_here))


def _open_here(name: str, flags: int) -> int:
    # Windows has neither of these.
    handle = os.open(
        name, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666
    )
    if S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise _not_plain(Path(name))


def _not_plain(path: Path) -> NotPlain:
    return NotPlain(f"{path.name} is a link, a folder or a device and no file: delete it")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} if it is missing, no plain file, too long or damaged."""
    try:
        with open_plain(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError:
        return {}
    return (parse_object(data) if len(data) <= MOST_BYTES else None) or {}


def parse_object(data: bytes) -> dict[str, Any] | None:
    """A JSON object, None for anything else; NaN and infinity, which are not JSON, become None."""
    try:
        text = data.decode("utf-8", "surrogatepass")
        parsed: object = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, dict):
        return None
    # Looking at every number of a long line takes as long as reading it.
    few = data.count(b"[") + data.count(b"{") <= _DEEPEST
    return cast("dict[str, Any]", parsed) if few or _fits(cast("object", parsed)) else None


def _finite(digits: str) -> float | None:
    number = float(digits)  # infinity for 1e999
    return number if math.isfinite(number) else None


def _fits(value: object, deepest: int = _DEEPEST) -> bool:
    """Whether a value has so few levels that whatever handles it can descend into it."""
    if isinstance(value, dict):
        value = list(cast("dict[str, object]", value).values())
    if not isinstance(value, list):
        return True
    inner = cast("list[object]", value)
    return deepest > 0 and all(_fits(one, deepest - 1) for one in inner)
