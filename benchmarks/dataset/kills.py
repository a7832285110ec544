"""Kills a captioning run a hundred times at random moments, and counts what was lost."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from pathlib import Path

from dataset.page import store
from harness.faults.killing import PICTURES, kill_once, reference

KILLS = 100


def main() -> int:
    """Measure and publish; the exit code is the number of broken promises."""
    with tempfile.TemporaryDirectory(prefix="pivotal-kills-") as name:
        work = Path(name)
        expected, seconds = reference(work / "reference")
        rng, rows, broken = random.Random(7), [], []
        for number in range(KILLS):
            moment = rng.uniform(0, seconds)
            try:
                rows.append(kill_once(work / str(number), moment, expected))
            except AssertionError as error:
                broken.append(f"{moment:.3f} s: {error}")
    stages = Counter(
        "before the first caption"
        if not row["kept"]
        else "in the middle"
        if row["written"] < PICTURES
        else "after the last"
        for row in rows
    )
    result = {
        "kills": KILLS,
        "killed_before_the_end": sum(bool(row["killed"]) for row in rows),
        "pictures": PICTURES,
        "seconds_of_a_whole_run": round(seconds, 3),
        "moments": dict(stages),
        "drafts_after_the_kills": sum(row["drafts"] for row in rows),
        "drafts_after_going_on": sum(row["drafts_at_the_end"] for row in rows),
        "broken": broken,
    }
    store("kills", result)
    return len(broken)
