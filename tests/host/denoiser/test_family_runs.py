"""Each family goes through a whole run; `dev.py bench families` tries every method on each."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from harness.host.trial import BUNDLE, SMALL, TEXT, TI, Trial
from pack.nodes.host.denoiser import families

ROOT = Path(__file__).resolve().parents[3]


# A flow transformer with an encoder of its own kind, and one whose latents have a time axis.
WHOLE = ("chroma", "qwenimage")


@pytest.mark.parametrize("name", SMALL)
def test_what_is_trained_is_saved_loaded_and_sampled_alike(host: Any, name: str):
    """By Load Bundle and, where it holds no names, by the host's LoraLoader; the base stays."""
    with Trial(host, name) as trial:
        methods = (TI, TEXT, BUNDLE) if name in WHOLE else (TEXT,)
        outcomes = {method: trial.outcome(method) for method in methods}
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
    assert where == {"nodes/host/denoiser/families.py"}
