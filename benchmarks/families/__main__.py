"""Tries the methods that are missing in each family; `dev.py bench families` runs it.

It resumes if it was interrupted: the work folder keeps the outcome of every method.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, prepare, publish, read_json, write_json

from harness.tools.environment import workspace

Row = dict[str, Any]
"""The host's class for a family, its size, and the outcome of each method."""


class Outcomes:
    """The rows so far, in one file per family in the work folder."""

    def __init__(self, work: Path) -> None:
        self._work = work

    def row(self, family: str) -> Row:
        return read_json(self._work / f"{family}.json", {"methods": {}})

    def save(self, family: str, row: Row) -> None:
        write_json(self._work / f"{family}.json", row)

    def publish(self, families: Iterable[str]) -> None:
        """Write the results; a family without outcomes here keeps those of earlier calls."""
        from families.report import page

        path = RESULTS / "families.json"
        earlier = read_json(path, {})
        rows: dict[str, Row] = {}
        for family in families:
            row = self.row(family)
            row = row if row["methods"] else earlier.get(family, row)
            if row["methods"]:
                rows[family] = row
        publish(path, rows, page)


def try_family(host: Any, family: str, outcomes: Outcomes) -> None:
    """Try the methods that are missing, and save each outcome as soon as it is known."""
    from harness.host.trial import FAMILIES, Trial

    row = outcomes.row(family)
    missing = [method for method in FAMILIES[family].methods if method not in row["methods"]]
    if not missing:
        return
    with Trial(host, family) as trial:
        row |= trial.facts()
        for method in missing:
            row["methods"][method] = trial.outcome(method)
            outcomes.save(family, row)
            sys.stdout.write(f"{family}, {method}: {row['methods'][method]}\n")
            sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench families", description=__doc__)
    parser.add_argument("--only", default="", help="families to try, separated by commas")
    parser.add_argument("--again", action="store_true", help="try finished methods as well")
    parser.add_argument("--work", type=Path, help="folder of finished methods")
    arguments = parser.parse_args()
    work = arguments.work or workspace("families")
    work.mkdir(parents=True, exist_ok=True)
    outcomes = Outcomes(work)
    with tempfile.TemporaryDirectory() as base:
        prepare(base)
        from harness.host.runner import start_host
        from harness.host.trial import FAMILIES

        host = start_host(ROOT)
        for family in [name for name in arguments.only.split(",") if name] or FAMILIES:
            if arguments.again:
                outcomes.save(family, {"methods": {}})
            try_family(host, family, outcomes)
        outcomes.publish(FAMILIES)


if __name__ == "__main__":
    main()
