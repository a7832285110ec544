"""Runs a part: one process per contender, which make their steps in turns, round by round."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from common import ROOT

from .parts import Part
from .setup import WARM_STEPS, Setup

FEWEST_ROUNDS = 6
RETURNED = "glibc.malloc.mmap_threshold=262144"
"""Returns blocks of 256 KB and more to the system as soon as they are freed."""


class Contender:
    """A process that makes one step when asked, with the code of the checkout at `root`."""

    def __init__(self, setup: Setup, root: Path, base: Path, log: Path, threads: int):
        self.setup, self.failed = setup, ""
        self.reports: list[dict[str, Any]] = []
        self._log = open(log, "ab")  # noqa: SIM115 - lives as long as the process
        variables = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        variables["PYTHONPATH"] = str(root / "tests")
        if setup.freed == "returned":
            variables["GLIBC_TUNABLES"] = RETURNED
        self._process = subprocess.Popen(
            [sys.executable, "-m", "speed.worker", str(base), *setup.words()],
            cwd=root / "benchmarks",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | variables,
        )

    def load(self) -> None:
        """Wait until the models are there."""
        self.resident = self._read().get("resident", 0)

    def step(self) -> None:
        """Make one step, unless the contender has failed."""
        if self.failed:
            return
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("step\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.failed = "the process ended"
            return
        report = self._read()
        if not self.failed:
            self.reports.append(report)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        report = json.loads(line) if line else {"failed": self._end()}
        self.failed = report.get("failed", "")
        return report

    def _end(self) -> str:
        """Why the process ended without a report; the system kills one that needs more memory."""
        killed = self._process.wait() == -signal.SIGKILL
        return "out of memory" if killed else "the process ended"

    def close(self) -> None:
        """End the process, which is waiting for the next line."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def row(self) -> dict[str, Any]:
        """The results of this contender."""
        shared = {"name": self.setup.name, "contender": self.setup.contender}
        shared |= {name: getattr(self.setup, name) for name in ("size", "device", "dtype", "phase")}
        shared |= {name: getattr(self.setup, name) for name in ("batch", "checkpointing")}
        shared |= {"text": self.setup.text, "concepts": self.setup.concepts}
        timed = [report["seconds"] for report in self.reports[WARM_STEPS:]]
        if self.failed or not timed:
            return shared | {"failed": self.failed or "no step"}
        counted = self.reports[WARM_STEPS - 1]
        calm = [report["peak"] for report in self.reports if report is not counted]
        return shared | {
            "seconds_per_step": statistics.median(timed),
            "seconds": timed,
            "cpu_seconds": [report["cpu_seconds"] for report in self.reports[WARM_STEPS:]],
            "first_step_seconds": self.reports[0]["seconds"],
            "peak_bytes_above_model": max(calm),
            "peak_bytes_later": max(calm[1:]),
            "resident_bytes": self.resident,
            "saved_bytes": counted["saved"],
            "encoder_calls": counted["calls"],
            "syncs": counted["syncs"],
        }


Rows = list[dict[str, Any]]
Entry = tuple[Setup, Path]
"""What a contender runs, and the checkout that it runs."""


@contextmanager
def started(
    name: str, entries: Sequence[Entry], log: Path, say: Callable[[str], None], threads: int = 0
) -> Iterator[list[Contender]]:
    """A process for each entry, with its first step made; by default with all cores."""
    with ExitStack() as stack:
        contenders: list[Contender] = []
        for number, (setup, root) in enumerate(entries, start=1):
            base = stack.enter_context(tempfile.TemporaryDirectory())
            contender = Contender(setup, root, Path(base), log, threads or os.cpu_count() or 1)
            stack.callback(contender.close)
            # One after the other: loading takes more memory than being loaded.
            contender.load()
            contender.step()
            contenders.append(contender)
            say(f"{name}: {number} of {len(entries)} loaded, {setup.name}")
        yield contenders


def in_turns(contenders: Sequence[Contender], rounds: int) -> Iterator[int]:
    """Make the remaining steps, one of each contender in turn; yields the timed rounds so far."""
    for count in range(1, WARM_STEPS + rounds):
        # Every other round backwards, so that no contender always follows the same one.
        for contender in contenders if count % 2 else reversed(contenders):
            contender.step()
        yield count + 1 - WARM_STEPS


def play(part: Part, log: Path, say: Callable[[str], None], save: Callable[[Rows], None]) -> None:
    """Measure a part; `save` gets its rows after every round from the sixth on.

    A call that is cut short leaves what it has measured by then.
    """
    entries = [(setup, ROOT) for setup in part.setups]
    with started(part.name, entries, log, say) as contenders:
        for timed in in_turns(contenders, part.rounds):
            if timed >= min(FEWEST_ROUNDS, part.rounds):
                save([contender.row() for contender in contenders])
