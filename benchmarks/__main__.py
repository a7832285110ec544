"""Runs one benchmark in this process: `python benchmarks NAME [arguments]`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
