"""Bundles that earlier versions saved load with the same tensors, names and notes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, uint8

from factories import tensors
from pack.bundles.bundle import Bundle
from pack.bundles.load import load_bundle

PAST = Path(__file__).resolve().parents[1] / "past" / "15e7634"
THEN = json.loads((PAST / "bundles.json").read_text(encoding="utf-8"))


def described(bundle: Bundle) -> dict[str, Any]:
    return {
        "family": bundle.family,
        "names": bundle.names,
        "entries": [[e.name, e.initial, e.placeholder, e.thumbnail] for e in bundle.entries],
        "recipe": dict(bundle.recipe),
        "workflow": bundle.workflow,
        "notes": list(bundle.notes),
        "thumbnail": bundle.thumbnail,
        "tensors": {key: digest(tensor) for key, tensor in tensors(bundle).items()},
    }


def digest(tensor: Tensor) -> str:
    numbers = tensor.contiguous().reshape(-1).view(uint8).numpy().tobytes()
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"{kind} {list(tensor.shape)} {hashlib.sha256(numbers).hexdigest()}"


@pytest.mark.parametrize("file", THEN)
def test_a_bundle_of_the_past_loads_as_it_did_then(file: str):
    assert described(load_bundle(PAST / "output" / file)) == THEN[file]
