"""What happens when the host starts with the pack installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.environment import PACK, link

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A fresh process that loads the host, then the pack; see benchmarks/startup.py."""
    base = tmp_path_factory.mktemp("startup")
    link(ROOT, base / "custom_nodes" / PACK)
    script = ROOT / "benchmarks" / "startup.py"
    command = [sys.executable, str(script), os.environ["PIVOTAL_COMFYUI"], "--probe", str(base)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_the_host_loads_the_nodes(start):
    assert start["nodes"] > 0


def test_the_start_imports_no_heavy_package(start):
    assert start["heavy"] == []
