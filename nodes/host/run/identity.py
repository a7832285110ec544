"""Recipes held against each other: what differs, and whether they are of one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def changes(kept: Any, wanted: Any, usual: Any) -> dict[str, list[Any]]:
    """What is wanted other than an earlier version may have kept it: {setting: [before, now]}.

    A setting that it did not know yet, it had as it is by default: as it is in `usual`.
    """
    now, defaults = dict(_flat(wanted)), dict(_flat(usual))
    before = {name: defaults[name] for name in now.keys() & defaults.keys()} | dict(_flat(kept))
    names = sorted(now.keys() | before.keys())
    return {n: [before.get(n), now.get(n)] for n in names if before.get(n) != now.get(n)}


def _flat(nested: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested objects and lists by their dotted names."""
    if isinstance(nested, Mapping):
        pairs = [(str(key), value) for key, value in nested.items()]
    elif isinstance(nested, list | tuple):
        pairs = [(str(place), value) for place, value in enumerate(nested)]
    else:
        return [(prefix, nested)]
    return [leaf for key, value in pairs for leaf in _flat(value, f"{prefix}.{key}".strip("."))]
