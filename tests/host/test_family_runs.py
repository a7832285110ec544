"""Families with the fewest numbers go through whole runs; `dev.py bench families` takes all."""

from __future__ import annotations

from typing import Any

import pytest

from harness.trial import BUNDLE, TEXT, TI, Trial


# A flow transformer with an encoder of its own kind, and one whose latents have a time axis.
@pytest.mark.parametrize("name", ["chroma", "qwenimage"])
def test_what_is_trained_is_saved_loaded_and_sampled_alike(host: Any, name: str):
    with Trial(host, name) as trial:
        assert {method: trial.outcome(method) for method in (TI, TEXT, BUNDLE)} in (
            {TI: "pass", TEXT: "pass", BUNDLE: "pass"},
            {TI: "pass", TEXT: "not run", BUNDLE: "pass"},
        )
