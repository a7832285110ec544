"""Kills, cancels and starves runs, and measures the cost of watching them; `dev.py bench runs`.

It resumes if it was interrupted: apart from the pairs of steps, a trial that is in the work folder
or in the results is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import RESULTS, read_json, write_json

from harness.tools.environment import workspace
from runs.report import write

SEED = 9


class Trials:
    """The finished trials by kind and number, in one file per kind in the work folder."""

    def __init__(self, work: Path, results: Path) -> None:
        self._work, self._results = work, results

    @property
    def rows(self) -> dict[str, Any]:
        """Those of the results, of this call, and of other calls that run at the same time."""
        rows = read_json(self._results / "runs.json", {"trials": {}})["trials"]
        for path in sorted(self._work.glob("*.json")):
            rows |= read_json(path, {})
        return rows

    def once(self, name: str, trial: Callable[[], Any]) -> None:
        """Do a trial unless it is already done."""
        if name not in self.rows:
            self.do(name, trial)

    def do(self, name: str, trial: Callable[[], Any]) -> None:
        """Do a trial; a broken promise is a result as well."""
        try:
            row = trial()
        except AssertionError as error:
            row = {"broken": str(error)[-600:]}
        kind = name.partition(" ")[0]
        same_kind = {n: r for n, r in self.rows.items() if n.partition(" ")[0] == kind}
        write_json(self._work / f"{kind}.json", {**same_kind, name: row})
        sys.stdout.write(f"{name}: {json.dumps(row)[:200]}\n")
        sys.stdout.flush()
        self.publish()

    def publish(self) -> None:
        write(self.rows, self._results)


def hurt_runs(trials: Trials, work: Path, known: argparse.Namespace) -> None:
    """Runs in children of a host that is already up: killed, denied the disk, watched."""
    from harness.faults.warm import WarmHost

    warm = WarmHost()
    try:
        from harness.faults import run_trials

        runs = run_trials.Trials(warm, work)
        if known.kills:
            expected = runs.reference(runs.long_run)
            killed, moments = 0, enumerate(run_trials.kills(expected, SEED))
            while killed < known.kills:
                number, kill = next(moments)
                name = f"kill {number}"
                trials.once(name, lambda n=name, k=kill: runs.kill(n, k, expected))
                shutil.rmtree(work / name, ignore_errors=True)
                # Some runs end before their moment comes.
                killed += trials.rows[name].get("killed", True)
        if known.faults:
            expected = runs.reference(runs.short_run)
            for number, fault in enumerate(run_trials.faults(expected)[:: known.faults]):
                name = f"fault {number * known.faults}"
                trials.once(name, lambda n=name, f=fault: runs.fail(n, f, expected))
                shutil.rmtree(work / name, ignore_errors=True)
        if known.pairs:
            from runs.overhead import weigh

            trials.do("overhead", lambda: weigh(warm, work / "overhead", known.pairs))
    finally:
        warm.close()


def cancel_runs(trials: Trials, count: int, python: Path, host: Path) -> None:
    """Cancel at random moments on a server of its own."""
    from harness.faults.cancelling import Cancelling, Moment, furnish
    from harness.host.server import Server

    rng = random.Random(SEED)
    moments = [Moment(number, rng.uniform(0.0, 1.0)) for number in range(count)]
    if all(f"cancel {moment.number}" in trials.rows for moment in moments):
        return
    with tempfile.TemporaryDirectory(prefix="pivotal-cancel-") as folder:
        furnish(Path(folder))
        with Server(python, host, Path(folder), ["--cpu"]) as server:
            cancelling = Cancelling(server)
            seconds = cancelling.calibrate()
            for moment in moments:
                name = f"cancel {moment.number}"
                trials.once(name, lambda m=moment: cancelling.press(m, seconds))


def main() -> None:
    """Do the trials that are not done yet; the exit code is the number of broken promises."""
    parser = argparse.ArgumentParser(prog="dev.py bench runs", description=__doc__)
    parser.add_argument("--work", type=Path, help="folder of finished trials")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--cancels", type=int, default=0)
    parser.add_argument("--faults", type=int, default=0, help="every Nth of all faults; 1: all")
    parser.add_argument("--pairs", type=int, default=0, help="pairs of watched and bare blocks")
    parser.add_argument("--results", type=Path, default=RESULTS)
    known = parser.parse_args()
    if not any((known.kills, known.cancels, known.faults, known.pairs)):
        known.kills, known.cancels, known.faults, known.pairs = 50, 20, 1, 24
    work = known.work or workspace("runs")
    work.mkdir(parents=True, exist_ok=True)
    trials = Trials(work, known.results)
    if known.kills or known.faults or known.pairs:
        hurt_runs(trials, work, known)
    if known.cancels:
        cancel_runs(
            trials, known.cancels, Path(sys.executable), Path(os.environ["PIVOTAL_COMFYUI"])
        )
    trials.publish()
    sys.exit(sum("broken" in row for row in trials.rows.values()))


if __name__ == "__main__":
    main()
