"""What the TriLoRA paper claims beside LoRA, held against the rows, whichever way it falls."""

from __future__ import annotations

from .adapters import (
    COMPARED,
    JUDGED,
    KINDS,
    LONG,
    RANK,
    RANKS,
    SHORT,
    STARTS,
    chosen_rate,
    method_name,
)
from .claims import Means, Rows, as_lines, means_at, verdict
from .subjects import SCATTERED

THEIRS, OURS = COMPARED


def adapter_claims(rows: Rows) -> list[str]:
    """A sentence for every claim that the rows can tell of, each adapter at its own best rate.

    At equal parameters, and of equal ranks the difference is less than one in six hundred.
    """
    rates = {kind: chosen_rate(rows, kind) for kind in KINDS}
    ours, theirs = rates[OURS], rates[THEIRS]
    if ours is None or theirs is None:
        return []
    budgets = {
        "at the budget": 1.0,
        "after a fifth of the steps": SHORT,
        "after ten times the steps, where it is said to overfit less": LONG,
    }
    best = method_name(OURS, RANK, ours), method_name(THEIRS, RANK, theirs)
    told = {
        f"TriLoRA beats LoRA {w}": against(means_at(rows, b, SCATTERED), *best)
        for w, b in budgets.items()
    }
    full = means_at(rows, 1.0, SCATTERED)
    for rank in RANKS:
        names = method_name(OURS, rank, ours), method_name(THEIRS, rank, theirs)
        told[f"TriLoRA beats LoRA at rank {rank}"] = against(full, *names)
    for kind, rate in rates.items():
        if kind not in COMPARED and rate is not None:
            claim = f"The start `{STARTS[kind].value}` of TriLoRA beats `{STARTS[OURS].value}`"
            told[claim] = against(full, method_name(kind, RANK, rate), best[0])
    return as_lines(told)


def against(mean: Means, ours: str, theirs: str) -> str:
    """Every score of two adapters, side by side."""
    found = mean.shared(ours, theirs)
    if found is None:
        return ""
    pairs = {name: (found.of(ours, name), found.of(theirs, name)) for name in JUDGED}
    scores = ", ".join(
        f"{name.replace('_', ' ')} {more:.2f} against {less:.2f}"
        for name, (more, less) in pairs.items()
    )
    variety = f"variety {found.of(ours, 'variety'):.3f} against {found.of(theirs, 'variety'):.3f}"
    rates = " and ".join(name.rpartition("rate")[2] for name in (ours, theirs))
    said = verdict(*(more - less for more, less in pairs.values()))
    return f"{said} ({scores}, {variety}; rates {rates}; {found.seeds})."
