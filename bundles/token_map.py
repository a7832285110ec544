"""Which rows of one tensor belong to which concept, where a trainer wrote them all into one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from .bundle import Embeddings

TokenMap = Mapping[str, Sequence[int]]
TOKEN_MAP = "token_map"
"""The header field in which our own `_emb` files say whose their rows are"""
_SLOT = re.compile(r"<s(\d{1,6})>")
_MAX_FILE = 1024**2


def parse_token_map(text: str) -> dict[str, list[int]]:
    """Rows by name from lines such as `TOK = <s0><s1>` or `TOK = 2`, the number of its rows.

    A number takes the rows after those of the lines before it.
    """
    token_map: dict[str, list[int]] = {}
    for line in filter(None, (part.strip() for part in re.split(r"[\n;]", text))):
        name, _, value = (part.strip() for part in line.rpartition("="))
        if not name or name in token_map:
            raise ValueError(_misread(line))
        start = 1 + max((row for rows in token_map.values() for row in rows), default=-1)
        token_map[name] = _rows(value, start, line)
    return token_map


def read_token_map(path: Path) -> dict[str, list[int]]:
    """The rows that a `special_params.json` gives each placeholder; {} if there is no file."""
    if not path.is_file():
        return {}
    if path.stat().st_size > _MAX_FILE:
        raise ValueError(f"{path.name} is too long for a list of tokens: choose another folder.")
    try:
        return json_token_map(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be read: {str(error)[:200]}.") from error


def json_token_map(text: str) -> dict[str, list[int]]:
    """Rows by name from `{"TOK": "<s0><s1>"}`; ValueError for text that is not JSON."""
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


def split_rows(embeddings: Embeddings, token_map: TokenMap) -> dict[str, dict[str, Tensor]]:
    """Split the only embedding of a file; ValueError for rows that it does not have."""
    if len(embeddings) != 1:
        raise ValueError(
            f"a token map splits one embedding, and the file holds {len(embeddings)}: leave it out."
        )
    (whole,) = embeddings.values()
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


def unused_rows(embeddings: Embeddings, token_map: TokenMap) -> str:
    """A sentence about rows that belong to no name, "" if every row does."""
    used = {row for rows in token_map.values() for row in rows}
    counts = [len(tensor) for vectors in embeddings.values() for tensor in vectors.values()]
    unused = [row for row in range(min(counts, default=0)) if row not in used]
    return f"The token map leaves out the rows {', '.join(map(str, unused))}." if unused else ""


def join_rows(embeddings: Embeddings) -> dict[str, Tensor]:
    """The rows of all names one after the other, in fp32; ValueError where encoders differ."""
    encoders = {frozenset(vectors) for vectors in embeddings.values()}
    if len(encoders) > 1 or any(len(set(map(len, v.values()))) > 1 for v in embeddings.values()):
        raise ValueError(
            "This form needs as many vectors for each encoder in every name: choose another form."
        )
    first = next(iter(embeddings.values()))
    return {
        key: torch.cat([vectors[key].to(torch.float32) for vectors in embeddings.values()])
        for key in first
    }


def token_json(embeddings: Embeddings) -> str:
    """The token map of joined rows as cog-sdxl's `special_params.json` has it."""
    return json.dumps(dict(_slots(embeddings)))


def token_text(embeddings: Embeddings) -> str:
    """The token map of joined rows as `parse_token_map` reads it: `cat = <s0><s1>; dog = <s2>`."""
    return "; ".join(f"{name} = {slots}" for name, slots in _slots(embeddings))


def _slots(embeddings: Embeddings) -> list[tuple[str, str]]:
    slots: list[tuple[str, str]] = []
    start = 0
    for name, vectors in embeddings.items():
        count = max(len(rows) for rows in vectors.values())
        slots.append((name, "".join(f"<s{start + row}>" for row in range(count))))
        start += count
    return slots


def _rows(value: str, start: int, line: str) -> list[int]:
    if re.fullmatch(r"\d{1,4}", value):
        return list(range(start, start + int(value)))
    rows = [int(number) for number in _SLOT.findall(value)]
    if not rows or _SLOT.sub("", value).strip():
        raise ValueError(_misread(line))
    return rows


def _misread(line: str) -> str:
    return f'"{line}" in the token map is not understood: write TOK = <s0><s1>, or TOK = 2.'
