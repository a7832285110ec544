"""Runs the families that are missing and writes the table; `dev.py bench families` calls it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
sys.path[:] = [entry for entry in sys.path if Path(entry) != Path(__file__).parent]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from atomic import replace_text  # noqa: E402
from learning.__main__ import prepare  # noqa: E402

Row = dict[str, Any]
"""Of a family: the host's class, its size, and what came of each method"""


class Kept:
    """The rows so far: those of the results, and a file a family in the working folder."""

    def __init__(self, work: Path) -> None:
        self._work = work

    def row(self, name: str) -> Row:
        """What the working folder has of a family."""
        path = self._work / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"methods": {}}

    def keep(self, name: str, row: Row) -> None:
        replace_text(self._work / f"{name}.json", json.dumps(row, indent=1))

    def publish(self, families: Iterable[str]) -> None:
        """Write the results as they are now."""
        from families.report import table

        path = RESULTS / "families.json"
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        found = {name: self.row(name) for name in families}
        rows = {n: row if row["methods"] else earlier.get(n, row) for n, row in found.items()}
        rows = {name: row for name, row in rows.items() if row["methods"]}
        RESULTS.mkdir(exist_ok=True)
        replace_text(path, json.dumps(rows, indent=1) + "\n")
        replace_text(RESULTS / "families.md", table(rows))


def try_family(host: Any, name: str, kept: Kept) -> None:
    """Train the methods that are missing, and keep what came of each as soon as it is known."""
    from harness.host.trial import FAMILIES, Trial

    row = kept.row(name)
    missing = [method for method in FAMILIES[name].methods if method not in row["methods"]]
    if not missing:
        return
    with Trial(host, name) as trial:
        row |= trial.facts()
        for method in missing:
            row["methods"][method] = trial.outcome(method)
            kept.keep(name, row)
            sys.stdout.write(f"{name}, {method}: {row['methods'][method]}\n")
            sys.stdout.flush()


def main() -> None:
    """Each method is kept in the working folder, so that a call that was stopped goes on."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of what is measured")
    parser.add_argument("--only", default="", help="the names of the families to run, by commas")
    parser.add_argument("--again", action="store_true", help="measure what is there already")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    kept = Kept(arguments.work)
    with tempfile.TemporaryDirectory() as base:
        prepare(Path(base))
        from harness.host.runner import start_host
        from harness.host.trial import FAMILIES

        host = start_host(ROOT)
        for name in [name for name in arguments.only.split(",") if name] or FAMILIES:
            if arguments.again:
                kept.keep(name, {"methods": {}})
            try_family(host, name, kept)
        kept.publish(FAMILIES)


if __name__ == "__main__":
    main()
