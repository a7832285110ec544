"""The table of the learning benchmark, for people and for programs."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLUMNS = ("fidelity", "following", "base_kept")


def write_report(rows: Sequence[dict[str, Any]], samples: int, folder: Path) -> None:
    """Write learning.json with a row a cell, and learning.md with the mean and spread of seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(list(rows), indent=1) + "\n"
    (folder / "learning.json").write_text(text, encoding="utf-8")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = [
        "# Learning",
        "",
        f"A character with its own two colors, from 8 pictures, in the sprite world; {samples} "
        f"samples with the concept and {samples} of the base's own prompts a cell. Shares from 0 "
        "to 1: mean (least to most of the seeds).",
        "",
        "| method | seeds | " + " | ".join(COLUMNS) + " | bytes | seconds |",
        "|" + "---|" * (len(COLUMNS) + 4),
        *(_line(method, [row for row in rows if row["method"] == method]) for method in methods),
        "",
        f"Python {platform.python_version()}, {platform.machine()}, "
        f"{rows[0]['budget']} steps each. Made by `python3 dev.py bench learning`.",
    ]
    (folder / "learning.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _line(method: str, rows: Sequence[dict[str, Any]]) -> str:
    cells = [_spread([row[column] for row in rows]) for column in COLUMNS]
    size = round(sum(row["bytes"] for row in rows) / len(rows))
    seconds = round(sum(row["seconds"] for row in rows) / len(rows))
    return f"| {method} | {len(rows)} | {' | '.join(cells)} | {size} | {seconds} |"


def _spread(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.2f} ({min(values):.2f} to {max(values):.2f})"
