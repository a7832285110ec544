"""Kills, cancels and starves runs, and weighs what watching costs; `dev.py bench runs`.

It goes on where it was stopped: a trial in the work folder or the results is not done again, but
for the pairs of steps.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SEED = 9
sys.path[:] = [entry for entry in sys.path if Path(entry) != Path(__file__).parent]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from atomic import replace_text  # noqa: E402


class Kept:
    """The trials that are done, by kind and number, in a file a kind in the work folder."""

    def __init__(self, work: Path, results: Path) -> None:
        self._work, self._results = work, results

    @property
    def rows(self) -> dict[str, Any]:
        """All of them: those of the results, of this call and of others that go on meanwhile."""
        files = sorted(self._work.glob("*.json"))
        parts = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        path = self._results / "runs.json"
        earlier = json.loads(path.read_text(encoding="utf-8"))["trials"] if path.exists() else {}
        return earlier | {name: row for part in parts for name, row in part.items()}

    def once(self, name: str, trial: Callable[[], Any]) -> None:
        """Do a trial unless it is done; what it finds broken is a result as well."""
        if name not in self.rows:
            self.do(name, trial)

    def do(self, name: str, trial: Callable[[], Any]) -> None:
        """Do a trial, also where an earlier one is kept."""
        try:
            row = trial()
        except AssertionError as error:
            row = {"broken": str(error)[-600:]}
        kind = name.partition(" ")[0]
        path = self._work / f"{kind}.json"
        kept = {n: r for n, r in self.rows.items() if n.partition(" ")[0] == kind}
        replace_text(path, json.dumps({**kept, name: row}))
        sys.stdout.write(f"{name}: {json.dumps(row)[:200]}\n")
        sys.stdout.flush()
        self.publish()

    def publish(self) -> None:
        """Write the results as they are now."""
        from runs.report import write

        write(self.rows, self._results)


def hurt_runs(kept: Kept, work: Path, known: argparse.Namespace) -> None:
    """Runs in children of a host that is up: killed, refused the disk, watched."""
    from harness.faults.warm import WarmHost

    warm = WarmHost()
    try:
        from harness.faults.run_trials import Trials, faults, kills

        trials = Trials(warm, work)
        if known.kills:
            wanted = trials.reference(trials.long_run)
            killed, moments = 0, enumerate(kills(wanted, SEED))
            while killed < known.kills:
                number, kill = next(moments)
                name = f"kill {number}"
                kept.once(name, lambda n=name, k=kill: trials.kill(n, k, wanted))
                shutil.rmtree(work / name, ignore_errors=True)
                # Some runs have ended before their moment comes.
                killed += kept.rows[name].get("killed", True)
        if known.faults:
            wanted = trials.reference(trials.short_run)
            for number, fault in enumerate(faults(wanted)[:: known.faults]):
                name = f"fault {number * known.faults}"
                kept.once(name, lambda n=name, f=fault: trials.fail(n, f, wanted))
                shutil.rmtree(work / name, ignore_errors=True)
        if known.pairs:
            from runs.overhead import weigh

            kept.do("overhead", lambda: weigh(warm, work / "overhead", known.pairs))
    finally:
        warm.close()


def cancel_runs(kept: Kept, count: int, python: Path, host: Path) -> None:
    """Cancel at random moments on a server of its own."""
    import random

    from harness.faults.cancelling import Cancelling, Moment, furnish
    from harness.host.server import Server

    draw = random.Random(SEED)
    moments = [Moment(number, draw.uniform(0.0, 1.0)) for number in range(count)]
    if all(f"cancel {moment.number}" in kept.rows for moment in moments):
        return
    with tempfile.TemporaryDirectory(prefix="pivotal-cancel-") as folder:
        furnish(Path(folder))
        with Server(python, host, Path(folder), ["--cpu"]) as server:
            cancelling = Cancelling(server)
            seconds = cancelling.calibrate()
            for moment in moments:
                kept.once(f"cancel {moment.number}", lambda m=moment: cancelling.press(m, seconds))


def main() -> None:
    """Do the trials that are not done yet; the exit code is the number of broken promises."""
    import os

    parser = argparse.ArgumentParser(prog="dev.py bench runs", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of the trials done")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--cancels", type=int, default=0)
    parser.add_argument("--faults", type=int, default=0, help="every so many of all faults; 1: all")
    parser.add_argument("--pairs", type=int, default=0, help="of steps watched and not")
    parser.add_argument("--results", type=Path, default=RESULTS)
    known = parser.parse_args()
    if not any((known.kills, known.cancels, known.faults, known.pairs)):
        known.kills, known.cancels, known.faults, known.pairs = 50, 20, 1, 24
    known.work.mkdir(parents=True, exist_ok=True)
    kept = Kept(known.work, known.results)
    if known.kills or known.faults or known.pairs:
        hurt_runs(kept, known.work, known)
    if known.cancels:
        cancel_runs(kept, known.cancels, Path(sys.executable), Path(os.environ["PIVOTAL_COMFYUI"]))
    kept.publish()
    sys.exit(sum("broken" in row for row in kept.rows.values()))


if __name__ == "__main__":
    main()
