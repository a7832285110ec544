"""Runs the cells that are missing and writes the page; `dev.py bench learning` runs it."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import RESULTS, prepare

from harness.tools.environment import workspace


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench learning", description=__doc__)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--only", default="", help="run cells with this in their names")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="then start no cell")
    parser.add_argument("--work", type=Path, help="folder of bases, runs and strips of samples")
    arguments = parser.parse_args()
    work = arguments.work or workspace("learning")
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as base:
        prepare(base)
        from learning.plan import run_plan

        run_plan(
            work,
            RESULTS,
            samples=arguments.samples,
            only=arguments.only,
            minutes=arguments.minutes,
        )


if __name__ == "__main__":
    main()
