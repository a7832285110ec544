"""Times ways to compute a step that are not built beside those that are; `dev.py bench kernels`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
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


def measured(part: str) -> dict[str, Any]:
    """The rows of a part, and on what they were measured."""
    import torch

    rows = importlib.import_module(f"kernels.{part}").rows()
    return {
        "rows": [asdict(row) for row in rows],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": f"{platform.machine()}, {platform.system()}",
    }


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
            found = measured(part)
            kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            kept[part] = found
            replace_text(path, json.dumps(kept, indent=1) + "\n")
            replace_text(path.with_suffix(".md"), page(kept))


if __name__ == "__main__":
    main()
