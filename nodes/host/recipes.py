"""Recipes held against each other: what differs, and whether they are of one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat(nested: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested objects and lists by their dotted names."""
    if isinstance(nested, Mapping):
        pairs = [(str(key), value) for key, value in nested.items()]
    elif isinstance(nested, list | tuple):
        pairs = [(str(place), value) for place, value in enumerate(nested)]
    else:
        return [(prefix, nested)]
    return [leaf for key, value in pairs for leaf in flat(value, f"{prefix}.{key}".strip("."))]


def is_same(kept: Any, wanted: Any, usual: Any) -> bool:
    """Whether what an earlier version may have kept is what is wanted now.

    A setting that it did not know yet, it had as it is by default: as it is in `usual`.
    """
    known, defaults = dict(flat(kept)), dict(flat(usual))
    now = dict(flat(wanted))
    filled = {name: defaults[name] for name in now.keys() & defaults.keys()} | known
    return filled == now
