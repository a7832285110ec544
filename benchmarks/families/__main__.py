"""Runs the families that are missing and writes the table; `dev.py bench families` calls it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
sys.path[:] = [entry for entry in sys.path if Path(entry) != Path(__file__).parent]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from learning.__main__ import prepare  # noqa: E402


def main() -> None:
    """Each family is kept in the working folder, so that a call that was stopped goes on."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of what is measured")
    parser.add_argument("--only", default="", help="the names of the families to run, by commas")
    parser.add_argument("--again", action="store_true", help="measure what is there already")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as base:
        prepare(Path(base))
        from families.report import table
        from harness.runner import start_host
        from harness.trial import METHODS, Trial
        from world.families import TINY

        host = start_host(ROOT)
        chosen = [name for name in arguments.only.split(",") if name] or list(TINY)
        for name in chosen:
            kept = arguments.work / f"{name}.json"
            if arguments.again or not kept.exists():
                with Trial(host, name) as trial:
                    found = {method: trial.outcome(method) for method in METHODS}
                kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
                sys.stdout.write(f"{name}: {found}\n")
        rows = {
            name: json.loads((arguments.work / f"{name}.json").read_text(encoding="utf-8"))
            for name in TINY
            if (arguments.work / f"{name}.json").exists()
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "families.md").write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
