"""The page about other ways to compute a step."""

from __future__ import annotations

from kernels.report import page


def test_a_row_shows_its_ratio_with_its_interval_and_its_note():
    row = {
        "idea": "an idea", "case": "a case", "pairs": 6, "ours": 0.5,
        "ratio": 0.9, "low": 0.8, "high": 1.1, "note": "a note",
    }  # fmt: skip
    part = {"rows": [row], "torch": "2", "threads": 1, "cores": 2, "machine": "here"}
    shown = page({"layouts": part})
    assert "| an idea | a case (a note) | 0.5000 | 0.900 | 0.800 to 1.100 | 6 |" in shown
    assert "## Channels last" in shown and "## torch.compile" not in shown
