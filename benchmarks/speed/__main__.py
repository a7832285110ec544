"""Measures the parts that are missing and writes the page; `dev.py bench speed` runs it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common import RESULTS, read_json, write_json

from harness.tools.environment import say, workspace
from speed.against import compare, table
from speed.parts import Part, cpu_parts, cuda_parts
from speed.play import play
from speed.report import add


def wanted(names: Sequence[str]) -> list[Part]:
    """The named parts, or all that this machine can measure."""
    import torch

    parts = cpu_parts() + (cuda_parts() if torch.cuda.is_available() else [])
    unknown = set(names) - {part.name for part in parts}
    if unknown:
        listed = ", ".join(part.name for part in parts)
        raise SystemExit(f"There is no part {', '.join(sorted(unknown))}: use {listed}.")
    return [part for part in parts if not names or part.name in names]


def measure(part: Part, work: Path, results: Path, again: bool) -> None:
    """Publish a part; it is measured unless an earlier call has left its rows in `work`."""
    path = work / file_name(part)
    if again or not path.exists():
        play(part, work / "contenders.log", say, lambda rows: write_json(path, rows))
    order = [part.name for part in cpu_parts() + cuda_parts()]
    add(part.name, read_json(path, []), order, results)


def measure_against(part: Part, other: Path, sessions: int, work: Path) -> None:
    """Print how the steps of this checkout compare with another's; `work` gets every time."""
    for done in compare(part, other, sessions, work / "contenders.log", say):
        write_json(work / f"against_{file_name(part)}", done)
        print(table(other, done), flush=True)


def file_name(part: Part) -> str:
    return f"{part.name.replace(' ', '_')}.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench speed", description=__doc__)
    parser.add_argument("--parts", nargs="*", default=[], help="only these")
    parser.add_argument("--again", action="store_true", help="measure finished parts as well")
    parser.add_argument("--rounds", type=int, default=0, help="instead of each part's own number")
    parser.add_argument("--against", type=Path, help="another checkout of the pack, interleaved")
    parser.add_argument("--sessions", type=int, default=10, help="of new processes, for --against")
    parser.add_argument("--work", type=Path, help="folder of finished parts")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    work = arguments.work or workspace("speed")
    work.mkdir(parents=True, exist_ok=True)
    for part in wanted(arguments.parts):
        part = replace(part, rounds=arguments.rounds or part.rounds)
        if arguments.against:
            measure_against(part, arguments.against.resolve(), arguments.sessions, work)
        else:
            measure(part, work, arguments.results, arguments.again)


if __name__ == "__main__":
    main()
