"""Times ways to compute a step that are not built beside those that are; `dev.py bench kernels`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
sys.path[:] = [entry for entry in sys.path if Path(entry) != Path(__file__).parent]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from atomic import replace_text  # noqa: E402
from learning.__main__ import prepare  # noqa: E402

from kernels.report import page  # noqa: E402

PARTS = ("projections", "layouts", "pictures", "compiled", "moments", "shares")
"""Modules of this folder, each with `rows()`."""
CASE = ("idea", "case", "family", "targets", "rank", "latent")
"""What tells the rows of a part apart."""


def measured(part: str) -> Iterator[dict[str, Any]]:
    """What a part has measured so far, after each row, and on what."""
    import torch

    found = {
        "rows": [],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": f"{platform.machine()}, {platform.system()}",
    }
    for row in importlib.import_module(f"kernels.{part}").rows():
        found["rows"].append(asdict(row))
        yield found


def store(path: Path, part: str, found: dict[str, Any]) -> None:
    """Put a part beside the others, its rows in the place of those of the same cases."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    new = {identity(row) for row in found["rows"]}
    before = [row for row in kept.get(part, {}).get("rows", []) if identity(row) not in new]
    kept[part] = found | {"rows": found["rows"] + before}
    replace_text(path, json.dumps(kept, indent=1) + "\n")
    replace_text(path.with_suffix(".md"), page(kept))


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row is about."""
    return tuple(row.get(name) for name in CASE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="not used: nothing is kept")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS, help="only these")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    path = arguments.results / "kernels.json"
    with tempfile.TemporaryDirectory() as base:
        prepare(Path(base))
        for part in arguments.parts:
            for found in measured(part):
                store(path, part, found)


if __name__ == "__main__":
    main()
