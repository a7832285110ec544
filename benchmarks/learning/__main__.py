"""Runs the cells that are missing and writes the table; `dev.py bench learning` calls it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def prepare(base: Path, *, cpu: bool = True) -> None:
    """Make the host, the pack (as `pack`) and the tests' sprite world importable."""
    sys.path[:0] = [str(ROOT / "tests"), os.environ["PIVOTAL_COMFYUI"], str(ROOT / "benchmarks")]
    import comfy.options  # noqa: F401
    from comfy.cli_args import args

    args.cpu, args.base_directory = cpu, str(base)
    spec = importlib.util.spec_from_file_location(
        "pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["pack"])


def load_models(folder: Path) -> tuple[Any, Any, Any]:
    """The base of the sprite world; its text encoder is cut to the layers that are not zero."""
    import torch
    from safetensors.torch import load_file

    from world.base import COMPACT, write_base
    from world.checkpoints import load_short
    from world.compact import unpack

    path = folder / "base_short.safetensors"
    if not path.exists():
        write_base(path, unpack(load_file(COMPACT)), short=True)
    with torch.inference_mode():
        return load_short(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of the finished cells")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as base:
        prepare(Path(base))
        from learning.cells import Cell, run_cell
        from learning.methods import METHODS
        from learning.report import write_report

        models = load_models(arguments.work)
        rows = [
            run_cell(Cell(method=name, seed=seed), models, arguments.work, arguments.samples)
            for seed in range(arguments.seeds)
            for name in arguments.methods or METHODS
        ]
        write_report(rows, arguments.samples, RESULTS)


if __name__ == "__main__":
    main()
