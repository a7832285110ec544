"""How a step is cut to fit the memory: blocks that are computed twice, samples at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MARGIN = 1.2
"""On everything measured: what is in use only for a moment, and gaps between allocations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Bytes of one sample's forward and backward pass, measured."""

    blocks: Mapping[str, int]
    """What each block keeps for backward unless it is computed a second time there."""
    rest: int
    """What everything else keeps, the inputs of the blocks included."""
    fixed: int
    """What does not grow with the batch: gradients, moments, and the largest weight in use."""

    def bytes_for(self, kept: frozenset[str], samples: int) -> int:
        """The most in use while `samples` go through at once and only `kept` blocks keep theirs."""
        again = max((size for name, size in self.blocks.items() if name not in kept), default=0)
        each = self.rest + sum(self.blocks[name] for name in kept) + again
        return self.fixed + int(MARGIN * samples * each)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What was chosen, and why."""

    kept: frozenset[str]
    """Blocks that keep what backward needs; all others compute it a second time."""
    split: bool
    """Whether a batch goes through the model sample by sample."""
    reason: str

    @property
    def saved(self) -> dict[str, object]:
        """The plan as JSON, so that a run goes on as it began."""
        return {
            "kept": sorted(self.kept), "split": self.split, "reason": self.reason
        }  # fmt: skip


def choose(cost: Cost, batch: int, free: int) -> Plan:
    """The fastest way that fits into `free` bytes; the least hungry one where none does.

    Small blocks are kept first: that spares the most work a byte, since a block's work grows
    with its weights and what it keeps with the size of its picture.
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
