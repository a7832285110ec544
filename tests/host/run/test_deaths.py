"""Runs that are killed or refused the disk; `dev.py bench runs` does many more of the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
KILLS, EVERY = 5, 40
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """In a process of its own: a fork of this one would lack the threads that torch has started."""
    work = tmp_path_factory.mktemp("runs")
    command = [sys.executable, str(ROOT / "benchmarks"), "runs", "--work", str(work / "done")]
    command += ["--results", str(work), "--kills", str(KILLS), "--faults", str(EVERY)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=work, check=False)
    assert (work / "runs.json").exists(), done.stderr[-2000:]
    return json.loads((work / "runs.json").read_text(encoding="utf-8"))["trials"]


def of(kind: str, trials: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    found = [row for name, row in trials.items() if name.startswith(kind)]
    assert not [row["broken"] for row in found if "broken" in row]
    return found


def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_files(trials):
    rows = of("kill", trials)
    assert sum(row["killed"] for row in rows) == KILLS
    assert any(row["drafts"] for row in rows), "no kill came within a write"
    assert any(row["went_on"] for row in rows), "no run went on from a checkpoint"


def test_a_disk_that_refuses_costs_no_step_and_is_told_of(trials):
    rows = of("fault", trials)
    assert len(rows) >= 4
    for row in rows:
        told = [row["failed"]] if "failed" in row else row["said"]
        # A folder that is there already may be refused without harm.
        assert told or row["kind"] == "os.mkdir", row
        assert all("make room or access" in one or "delete it" in one for one in told), row
