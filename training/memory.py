"""How a step fits into memory: which blocks are recomputed, and how many samples go at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

MARGIN = 1.2
"""Factor on every measurement, for short-lived buffers and gaps between allocations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Measured bytes of one sample's forward and backward pass."""

    blocks: Mapping[str, int]
    """What each block saves for backward unless it is recomputed there."""
    rest: int
    """What everything else saves, including the inputs of the blocks."""
    fixed: int
    """What does not grow with the batch: gradients, moments and the largest weight in use."""

    def bytes_for(self, kept: frozenset[str], samples: int) -> int:
        """Peak bytes when `samples` go through at once and only the `kept` blocks save theirs."""
        again = max((size for name, size in self.blocks.items() if name not in kept), default=0)
        each = self.rest + sum(self.blocks[name] for name in kept) + again
        return self.fixed + int(MARGIN * samples * each)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The choice, and the reason for it."""

    kept: frozenset[str]
    """Blocks that save what backward needs; all others recompute it."""
    split: bool
    """Whether a batch goes through the model sample by sample."""
    reason: str

    @property
    def saved(self) -> dict[str, object]:
        """The plan as JSON, so that a run resumes as it began."""
        return {
            "kept": sorted(self.kept), "split": self.split, "reason": self.reason
        }  # fmt: skip

    @classmethod
    def read(cls, saved: Mapping[str, object]) -> Plan | None:
        """The plan that was saved; None for any other object."""
        kept, split, reason = (saved.get(name) for name in ("kept", "split", "reason"))
        if not (isinstance(kept, list) and isinstance(split, bool) and isinstance(reason, str)):
            return None
        names = cast("list[object]", kept)
        return cls(kept=frozenset(map(str, names)), split=split, reason=reason)


def choose(cost: Cost, batch: int, free: int) -> Plan:
    """The fastest plan that fits into `free` bytes; the smallest one if none does.

    Small blocks are kept first, which saves the most work for each byte: a block's work grows
    with its weights, and what it saves grows with the size of its picture.
    """
    by_size = sorted(cost.blocks, key=lambda name: (cost.blocks[name], name))
    for count in range(len(by_size), -1, -1):
        kept = frozenset(by_size[:count])
        if cost.bytes_for(kept, batch) <= free:
            return Plan(kept=kept, split=False, reason=_reason(cost, kept, batch, free))
    none = frozenset[str]()
    reason = _reason(cost, none, 1, free)
    if batch > 1:
        reason += f"; the batch of {batch} goes through sample by sample"
    if cost.bytes_for(none, 1) > free:
        reason += "; even that is more than is free, so the host has to move weights to and fro"
    return Plan(kept=none, split=batch > 1, reason=reason)


def _reason(cost: Cost, kept: frozenset[str], samples: int, free: int) -> str:
    whole = cost.bytes_for(frozenset(cost.blocks), samples)
    if not cost.blocks:
        return f"a step takes {_gb(whole)} of {_gb(free)} free"
    if len(kept) == len(cost.blocks):
        return f"no block is computed twice: a step takes {_gb(whole)} of {_gb(free)} free"
    again = len(cost.blocks) - len(kept)
    return (
        f"{again} of {len(cost.blocks)} blocks are computed twice: a step takes "
        f"{_gb(cost.bytes_for(kept, samples))} of {_gb(free)} free, and {_gb(whole)} without that"
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
