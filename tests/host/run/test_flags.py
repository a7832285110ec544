"""A run is found on a real server whose memory is never the same."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness.host.flags import FLAGS, furnish, try_flag


def test_every_flag_is_tried_once():
    assert len(set(FLAGS)) == len(FLAGS)


@pytest.mark.parametrize("flag", ["--cache-none"])
def test_a_run_is_found_and_is_the_same_with_a_flag(tmp_path: Path, flag: str):
    furnish(tmp_path)
    host = Path(os.environ["PIVOTAL_COMFYUI"])
    tried = try_flag(Path(sys.executable), host, tmp_path, flag)
    assert tried.get("found_again") and tried["losses_equal"], tried
