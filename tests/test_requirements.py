"""The two lists of requirements: what Manager installs, and what the registry shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "torch",
    "diffusers",
    "transformers",
    "safetensors",
    "comfyui-frontend-package",
    "prodigyopt",
    "pillow",
}


def installed_by_manager() -> list[str]:
    return (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()


def declared() -> list[str]:
    """The lines of `dependencies`; tomllib came with Python 3.11."""
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]["dependencies"]


def name(line: str) -> str:
    return re.split(r"[^A-Za-z0-9_-]", line)[0]


def test_manager_installs_only_what_the_host_does_not_bring():
    assert [name(line) for line in installed_by_manager()] == ["diffusers", "prodigyopt"]


def test_all_seven_packages_are_declared():
    assert {name(line) for line in declared()} == PACKAGES


def test_both_lists_say_the_same():
    assert set(installed_by_manager()) <= set(declared())


def test_no_line_has_a_blank_or_an_upper_bound():
    for line in installed_by_manager() + declared():
        assert re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", line), line


def test_the_archive_index_reads_the_frontend_requirement():
    frontend = next(line for line in declared() if name(line) == "comfyui-frontend-package")
    assert re.search(r">=\d+\.\d+\.\d+$", frontend), "the registry drops a version of two parts"
