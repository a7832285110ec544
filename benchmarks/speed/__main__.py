"""Measures the parts that are missing and writes the page; `dev.py bench speed` calls it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
sys.path[:] = [entry for entry in sys.path if Path(entry) != Path(__file__).parent]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from atomic import replace_text  # noqa: E402

from harness.tools.environment import say  # noqa: E402
from speed.parts import Part, cpu_parts, cuda_parts  # noqa: E402
from speed.play import play  # noqa: E402
from speed.report import add  # noqa: E402


def wanted(names: Sequence[str]) -> list[Part]:
    """The named parts, or all that this machine can measure."""
    import torch

    parts = cpu_parts() + (cuda_parts() if torch.cuda.is_available() else [])
    unknown = set(names) - {part.name for part in parts}
    if unknown:
        listed = ", ".join(part.name for part in parts)
        raise SystemExit(f"There is no part {', '.join(sorted(unknown))}: use {listed}.")
    return [part for part in parts if not names or part.name in names]


def measure(part: Part, folder: Path, again: bool) -> None:
    """Measure a part unless an earlier call has left it in `folder`."""
    done = file_of(part, folder)
    if again or not done.exists():
        play(
            part, folder / "contenders.log", say, lambda rows: replace_text(done, json.dumps(rows))
        )


def file_of(part: Part, folder: Path) -> Path:
    return folder / f"{part.name.replace(' ', '_')}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of the finished parts")
    parser.add_argument("--parts", nargs="*", default=[], help="only these")
    parser.add_argument("--again", action="store_true", help="measure also what is done")
    parser.add_argument("--rounds", type=int, default=0, help="instead of each part's own")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for part in wanted(arguments.parts):
        part = replace(part, rounds=arguments.rounds or part.rounds)
        measure(part, arguments.work, arguments.again)
        rows = json.loads(file_of(part, arguments.work).read_text(encoding="utf-8"))
        add(part.name, rows, [one.name for one in cpu_parts() + cuda_parts()], arguments.results)


if __name__ == "__main__":
    main()
