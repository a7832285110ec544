"""The demo, shortened: the example workflow on a real server, from pictures to a bundle."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness.host.server import ServerFailed
from harness.tools import demo
from harness.tools.environment import PACK, link

ROOT = Path(__file__).resolve().parents[3]
HOST = Path(os.environ.get("PIVOTAL_COMFYUI", ""))


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base directory with the pack, and four steps of training in the workflow."""
    link(ROOT, tmp_path / "custom_nodes" / PACK)
    monkeypatch.setitem(demo.LEARNED["Pivotal_TrainConcepts"], "steps", 4)
    return tmp_path


def test_the_demo_ends_with_the_plot_the_picture_and_the_bundle(base):
    said: list[str] = []
    results = demo.run_demo(Path(sys.executable), HOST, base, said.append)
    assert [label for label, _ in results] == ["loss plot", "Before and after", "bundle"]
    assert all(path.is_absolute() and path.stat().st_size > 0 for _, path in results)
    assert said[-1] == f"bundle: {results[-1][1]}"
    assert said[-1].endswith(".safetensors")
    assert any(line.startswith("step 4 of 4, loss ") for line in said)


def test_a_demo_that_fails_says_why(base, monkeypatch):
    monkeypatch.setitem(demo.LEARNED["Pivotal_Concept"], "placeholder", "NOWHERE")
    with pytest.raises(ServerFailed, match="NOWHERE"):
        demo.run_demo(Path(sys.executable), HOST, base, str)
