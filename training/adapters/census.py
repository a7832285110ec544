"""Which layers are adapted and with how many parameters, told in a few lines."""

from __future__ import annotations

from collections.abc import Mapping

from .base import Adapter
from .targets import MODEL, TEXT, parse_patterns

_PARTS = {MODEL: "diffusion model", TEXT: "text encoders"}


def census(adapters: Mapping[str, Mapping[str, Adapter]], patterns: str) -> list[str]:
    """A line a part, and below it a line a pattern that chose layers there."""
    lines: list[str] = []
    for part, members in adapters.items():
        if not members:
            continue
        lines.append(f"{_PARTS[part]}: {_count(list(members.values()))}")
        lines += _by_pattern(part, members, patterns)
    return lines


def _count(adapters: list[Adapter]) -> str:
    parameters = sum(p.numel() for adapter in adapters for p in adapter.parameters())
    noun = "layer" if len(adapters) == 1 else "layers"
    return f"{len(adapters)} {noun} adapted with {parameters:,} parameters"


def _by_pattern(part: str, members: Mapping[str, Adapter], patterns: str) -> list[str]:
    parsed = parse_patterns(patterns)
    if not parsed:
        return []
    chosen: dict[str, list[Adapter]] = {}
    for name, adapter in members.items():
        hits = [one.text for one in parsed if one.find.search(f"{part}.{name}")]
        chosen.setdefault(hits[0] if hits else "targets", []).append(adapter)
    return [f"  {text}: {_count(adapters)}" for text, adapters in chosen.items()]
