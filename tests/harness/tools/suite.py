"""The whole test suite in two pytest processes, each with about half of the work.

Standard library only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from harness.tools.environment import ROOT, say

APART = (
    "tests/browser",
    "tests/host/bundle",
    "tests/host/captioners",
    "tests/host/evaluate",
    "tests/host/text",
    "tests/training",
    "tests/world",
)
"""What runs in the second process: the browser's tests first, and as much as makes both even."""
# The attribute of pytest's XML report for each word of its summary.
COUNTED = {"failed": "failures", "errors": "errors", "skipped": "skipped"}


def run_suite(python: Path, host: Path, root: Path = ROOT) -> int:
    """Run all tests and return pytest's exit code; one line over both processes comes last."""
    paths = [path for path in APART if (root / path).exists()]
    with tempfile.TemporaryDirectory(prefix="pivotal-suite-") as name:
        reports = [Path(name) / "rest.xml", Path(name) / "apart.xml"]
        with open(Path(name) / "apart.log", "w+b") as log:
            with pytest(python, host, root, reports[1], paths, output=log) as apart:
                ignored = [f"--ignore={path}" for path in paths]
                with pytest(python, host, root, reports[0], ignored) as rest:
                    codes = [rest.wait()]
                say(f"pytest {' '.join(paths)}, which ran beside these")
                codes.append(apart.wait())
            show(log)
        say(f"pytest: {summary(reports)}")
    return next((code for code in codes if code), 0)


@contextmanager
def pytest(
    python: Path,
    host: Path,
    root: Path,
    report: Path,
    what: Sequence[str],
    output: IO[bytes] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A pytest process on a share of the cores; it ends with the block."""
    # Torch's threads of both processes would otherwise wait for each other.
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    environment = {"OMP_NUM_THREADS": threads} | os.environ | {"PIVOTAL_COMFYUI": str(host)}
    command = [str(python), "-m", "pytest", *what, f"--junit-xml={report}"]
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=output, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def show(log: IO[bytes]) -> None:
    """Print what a process has written, byte for byte; one that was killed ends in mid-line."""
    log.seek(0)
    sys.stdout.flush()
    written = log.read()
    sys.stdout.buffer.write(written if written.endswith(b"\n") else written + b"\n")
    sys.stdout.buffer.flush()


def summary(reports: list[Path]) -> str:
    """Counts over the reports of processes that ran at once, and the longest one's seconds."""
    missing = [path.stem for path in reports if not path.exists()]
    if missing:
        return f"no report of {', '.join(missing)}: the process was killed or did not start"
    suites = [suite for path in reports for suite in ElementTree.parse(path).iter("testsuite")]
    counts = {word: sum(int(s.get(name, 0)) for s in suites) for word, name in COUNTED.items()}
    passed = sum(int(suite.get("tests", 0)) for suite in suites) - sum(counts.values())
    found = {"failed": counts["failed"], "passed": passed} | counts
    seconds = max(float(suite.get("time", 0)) for suite in suites)
    words = ", ".join(f"{count} {word}" for word, count in found.items() if count)
    return f"{words or 'no tests ran'} in {seconds:.0f} s"
