"""A process that is killed while captioning loses nothing, and the next one ends the same."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from harness.faults.killing import PICTURES, kill_once, reference


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_five_kills_lose_halve_and_double_nothing(tmp_path: Path):
    """`dev.py bench dataset kills` does it a hundred times."""
    wanted, seconds = reference(tmp_path / "reference")
    assert len(wanted) == PICTURES
    draw, rows = random.Random(1), []
    for number in range(5):
        rows.append(kill_once(tmp_path / str(number), draw.uniform(0.05, 0.95) * seconds, wanted))
    assert not any(row["drafts_at_the_end"] for row in rows)
    assert any(row["killed"] and 0 < row["kept"] < PICTURES for row in rows)
