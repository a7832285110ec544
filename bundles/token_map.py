"""Which rows of one tensor belong to which concept, where a trainer wrote all into one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from torch import Tensor

TokenMap = Mapping[str, Sequence[int]]
TOKEN_MAP = "token_map"
"""The header field in which our own `_emb` files say whose their rows are."""
_SLOT = re.compile(r"<s(\d{1,6})>")
_MAX_FILE = 1024**2


def parse_token_map(text: str) -> dict[str, list[int]]:
    """Rows by name from lines such as `TOK = <s0><s1>` or `TOK = 2`, the number of its rows.

    Counts go on where the last line ended; ValueError for a line that is neither.
    """
    found: dict[str, list[int]] = {}
    for line in filter(None, (part.strip() for part in re.split(r"[\n;]", text))):
        name, _, value = (part.strip() for part in line.rpartition("="))
        if not name or name in found:
            raise ValueError(_misread(line))
        start = 1 + max((row for rows in found.values() for row in rows), default=-1)
        found[name] = _rows(value, start, line)
    return found


def read_token_map(path: Path) -> dict[str, list[int]]:
    """The rows that a `special_params.json` gives each placeholder; {} where there is none."""
    if not path.is_file():
        return {}
    if path.stat().st_size > _MAX_FILE:
        raise ValueError(f"{path.name} is too long for a list of tokens: choose another folder.")
    try:
        return json_token_map(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be read: {str(error)[:200]}.") from error


def json_token_map(text: str) -> dict[str, list[int]]:
    """Rows by name from `{"TOK": "<s0><s1>"}`; ValueError for what is no JSON."""
    try:
        parsed: object = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    items = cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}
    return {
        name: [int(number) for number in _SLOT.findall(value)]
        for name, value in items.items()
        if isinstance(value, str) and _SLOT.search(value)
    }


def split_rows(
    embeddings: Mapping[str, Mapping[str, Tensor]], token_map: TokenMap
) -> dict[str, dict[str, Tensor]]:
    """The one embedding of a file as several; ValueError where the rows are not there."""
    if len(embeddings) != 1:
        raise ValueError(
            f"a token map splits one embedding, and the file holds {len(embeddings)}: leave it out."
        )
    ((_, whole),) = embeddings.items()
    count = min(tensor.reshape(-1, tensor.shape[-1]).shape[0] for tensor in whole.values())
    for name, rows in token_map.items():
        if not rows or max(rows) >= count:
            raise ValueError(
                f"the token map gives '{name}' the rows {', '.join(map(str, rows)) or 'none'} and "
                f"the embedding has the rows 0 to {count - 1}."
            )
    return {
        name: {key: t.reshape(-1, t.shape[-1])[list(rows)] for key, t in whole.items()}
        for name, rows in token_map.items()
    }


def unused_rows(embeddings: Mapping[str, Mapping[str, Tensor]], token_map: TokenMap) -> str:
    """A sentence about rows that no name got, "" where there are none."""
    used = {row for rows in token_map.values() for row in rows}
    counts = [len(tensor) for vectors in embeddings.values() for tensor in vectors.values()]
    left = [row for row in range(min(counts, default=0)) if row not in used]
    return f"The token map leaves out the rows {', '.join(map(str, left))}." if left else ""


def _rows(value: str, start: int, line: str) -> list[int]:
    if re.fullmatch(r"\d{1,4}", value):
        return list(range(start, start + int(value)))
    slots = [int(number) for number in _SLOT.findall(value)]
    if not slots or _SLOT.sub("", value).strip():
        raise ValueError(_misread(line))
    return slots


def _misread(line: str) -> str:
    return f'"{line}" in the token map is not understood: write TOK = <s0><s1>, or TOK = 2.'
