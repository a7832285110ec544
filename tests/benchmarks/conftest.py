"""Puts benchmarks/ on the path; without ComfyUI, leaves out the tests of what imports it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
collect_ignore = [] if os.environ.get("PIVOTAL_COMFYUI") else ["test_learning.py"]
