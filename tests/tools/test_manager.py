"""A share of `dev.py manager`: the real ComfyUI-Manager installs and uninstalls the pack."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness.tools.claims import Check
from harness.tools.environment import ROOT, Stop
from harness.tools.manager import run_manager, tell

pytestmark = pytest.mark.host


@pytest.mark.timeout(900)
def test_manager_installs_and_uninstalls_the_pack_and_changes_nothing_else(tmp_path: Path):
    check = Check()
    tell("short", Path(sys.executable), Path(os.environ["PIVOTAL_COMFYUI"]), tmp_path / "it", check)
    assert len(check.claims) >= 5
    assert [claim for holds, claim in check.claims if not holds] == []
    (added,) = (found["added"] for found in check.packages.values())
    assert {"diffusers", "prodigyopt"} <= added.keys()


def test_an_unknown_word_is_refused_before_anything_is_made():
    with pytest.raises(Stop, match=r"Unknown: gti\. There are record, git, archive, short\."):
        run_manager(Path(sys.executable), ROOT, ["gti"])
