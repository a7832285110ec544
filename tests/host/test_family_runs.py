"""Families with the fewest numbers go through whole runs; `dev.py bench families` takes all."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from harness.trial import BUNDLE, TEXT, TI, Trial
from pack.nodes.host import families

ROOT = Path(__file__).resolve().parents[2]


# A flow transformer with an encoder of its own kind, and one whose latents have a time axis.
@pytest.mark.parametrize("name", ["chroma", "qwenimage"])
def test_what_is_trained_is_saved_loaded_and_sampled_alike(host: Any, name: str):
    with Trial(host, name) as trial:
        outcomes = {method: trial.outcome(method) for method in (TI, TEXT, BUNDLE)}
    assert set(outcomes.values()) == {"pass"}, outcomes


def test_a_family_without_an_entry_trains_alike(host: Any, monkeypatch: pytest.MonkeyPatch):
    """An entry gives a family its name in bundles; all else is read off the host's objects."""
    monkeypatch.setattr(families, "FAMILIES", {})
    with Trial(host, "lumina2") as trial:
        assert trial.outcome(BUNDLE) == "pass"


def test_families_are_told_apart_in_one_file():
    """Apart from the formats, whose names of layers and programs are those of a family."""
    where = {
        path.relative_to(ROOT).as_posix()
        for folder in ("nodes", "training")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in families.FAMILIES
    }
    assert where == {"nodes/host/families.py"}
