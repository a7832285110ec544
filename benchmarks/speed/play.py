"""Runs one part: a process for each contender, a step of each in turn, round after round."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .parts import Part
from .setup import WARM_STEPS, Setup

WORKER = Path(__file__).with_name("worker.py")
FEWEST_ROUNDS = 6
RETURNED = "glibc.malloc.mmap_threshold=262144"
"""Blocks of 256 KB and more are the system's again as soon as they are freed."""


class Contender:
    """A process that makes one step when asked."""

    def __init__(self, setup: Setup, base: Path, log: Path):
        self.setup, self.failed = setup, ""
        self.reports: list[dict[str, Any]] = []
        self._log = open(log, "ab")  # noqa: SIM115 - lives as long as the process
        threads = str(os.cpu_count() or 1)
        tuned = {"GLIBC_TUNABLES": RETURNED} if setup.freed == "returned" else {}
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), str(base), *setup.words()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"} | tuned,
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
        # A process that the system ends for its memory says nothing.
        report = json.loads(line) if line else {"failed": "out of memory"}
        self.failed = report.get("failed", "")
        return report

    def close(self) -> None:
        """Let the process end; it may be in the middle of nothing else than waiting."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def row(self) -> dict[str, Any]:
        """What the page says about this contender."""
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


def play(part: Part, log: Path, say: Callable[[str], None], keep: Callable[[Rows], None]) -> None:
    """Measure a part; `keep` is given its rows after every round from the sixth on.

    So a call that is cut short leaves what it has, with its count of pairs.
    """
    with ExitStack() as stack:
        contenders: list[Contender] = []
        for number, setup in enumerate(part.setups):
            base = stack.enter_context(tempfile.TemporaryDirectory())
            one = Contender(setup, Path(base), log)
            stack.callback(one.close)
            # One after the other: loading takes more memory than being loaded.
            one.load()
            one.step()
            contenders.append(one)
            say(f"{part.name}: {number + 1} of {len(part.setups)} loaded, {setup.name}")
        for count in range(1, WARM_STEPS + part.rounds):
            # Every other round backwards, so that nobody always comes after the same one.
            for one in contenders if count % 2 else reversed(contenders):
                one.step()
            timed = count + 1 - WARM_STEPS
            if timed >= min(FEWEST_ROUNDS, part.rounds):
                keep([one.row() for one in contenders])
