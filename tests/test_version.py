"""The oldest ComfyUI: one number in the code, in pyproject.toml and in the README."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

pytest.importorskip("comfy_api", reason="needs ComfyUI: set PIVOTAL_COMFYUI")
pytestmark = pytest.mark.host

from harness.tools.hosts import RELEASES  # noqa: E402
from pack.nodes.host import versions  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
OLDEST = ".".join(map(str, versions.OLDEST))


@pytest.mark.parametrize("old", ["0.16.2", "0.3.75", "0.9.0"])
def test_an_older_host_gets_one_sentence(old):
    with pytest.raises(RuntimeError) as refused:
        versions.check_version(old)
    sentence = f"Pivotal needs ComfyUI {OLDEST} or newer and this is {old}: update ComfyUI."
    assert str(refused.value) == sentence


@pytest.mark.parametrize("new", [OLDEST, "0.30.0", "0.38.1", "1.0.0", "0.31.0-dev", "unknown"])
def test_a_newer_or_an_unknown_host_passes(new):
    versions.check_version(new)


def test_the_floor_is_a_host_of_the_matrix_and_is_stated_everywhere():
    assert OLDEST in {release.version for release in RELEASES}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-comfyui = ">={OLDEST}"' in project
    assert f"ComfyUI {OLDEST} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_what_manager_installs_is_what_is_looked_for():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert [re.split(r"\W", line)[0] for line in lines] == list(versions.NEEDED)


def test_missing_packages_are_named_in_one_line(monkeypatch, caplog):
    monkeypatch.setattr(versions, "NEEDED", ("diffusers", "no_such_one", "nor_this"))
    with caplog.at_level(logging.WARNING):
        versions.report_missing("13.0.0")
    (line,) = caplog.messages
    assert line.startswith("Pivotal misses no_such_one and nor_this: run python -m pip install")


def test_nothing_is_said_when_all_are_there(caplog):
    versions.report_missing("13.0.0")
    assert caplog.messages == []


def test_a_pillow_with_known_holes_is_one_line_and_the_floor_is_the_one_of_the_documents(caplog):
    versions.report_missing("12.9.1")
    (line,) = caplog.messages
    assert line.startswith("Pillow 12.9.1 can be harmed by images of strangers")
    assert f"| Pillow | {versions.LEAST_PILLOW}.0 |" in (ROOT / "SECURITY.md").read_text("utf-8")
