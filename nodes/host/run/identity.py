"""Which settings differ between two recipes, and so whether they belong to the same run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def changes(saved: Any, requested: Any, usual: Any) -> dict[str, list[Any]]:
    """The settings that differ from a saved recipe: {setting: [before, now]}.

    A recipe may be saved by an earlier version of the pack. A setting which that version did not
    know had its default, the value in `usual`.
    """
    now, defaults = dict(_flat(requested)), dict(_flat(usual))
    before = {name: defaults[name] for name in now.keys() & defaults.keys()} | dict(_flat(saved))
    names = sorted(now.keys() | before.keys())
    return {n: [before.get(n), now.get(n)] for n in names if before.get(n) != now.get(n)}


def _flat(nested: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested objects and lists, with their dotted names."""
    if isinstance(nested, Mapping):
        pairs = [(str(key), value) for key, value in nested.items()]
    elif isinstance(nested, list | tuple):
        pairs = [(str(place), value) for place, value in enumerate(nested)]
    else:
        return [(prefix, nested)]
    return [leaf for key, value in pairs for leaf in _flat(value, f"{prefix}.{key}".strip("."))]
