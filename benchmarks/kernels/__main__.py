"""Times other ways to compute a step against those that the pack uses; `dev.py bench kernels`."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import RESULTS, prepare, publish, read_json

from kernels.report import page

PARTS = ("projections", "layouts", "pictures", "compiled", "moments", "shares")
"""Modules of this folder, each with `rows()`."""
CASE = ("idea", "case", "family", "targets", "rank", "latent")
"""The fields that distinguish the rows of a part."""


def measured(part: str) -> Iterator[dict[str, Any]]:
    """The machine and the rows of a part so far, after each row."""
    import torch

    measurement = {
        "rows": [],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": f"{platform.machine()}, {platform.system()}",
    }
    for row in importlib.import_module(f"kernels.{part}").rows():
        measurement["rows"].append(asdict(row))
        yield measurement


def store(path: Path, part: str, measurement: dict[str, Any]) -> None:
    """Publish a part with the others; its rows replace earlier ones of the same cases."""
    every = read_json(path, {})
    new = {identity(row) for row in measurement["rows"]}
    before = [row for row in every.get(part, {}).get("rows", []) if identity(row) not in new]
    every[part] = measurement | {"rows": measurement["rows"] + before}
    publish(path, every, page)


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in CASE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench kernels", description=__doc__)
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS, help="only these")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        prepare(base)
        for part in arguments.parts:
            for measurement in measured(part):
                store(arguments.results / "kernels.json", part, measurement)


if __name__ == "__main__":
    main()
