"""Runs the cells that are missing and writes the table; `dev.py bench learning` calls it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of bases and runs")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--only", default="", help="a part of the names of the cells to run")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no cell after")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as base:
        prepare(Path(base))
        from learning.plan import run_plan

        run_plan(
            arguments.work,
            RESULTS,
            samples=arguments.samples,
            only=arguments.only,
            minutes=arguments.minutes,
        )


if __name__ == "__main__":
    main()
