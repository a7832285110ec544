"""What the literature claims of these methods, held against the rows, whichever way it falls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .choices import EARLY

Rows = Sequence[dict[str, Any]]
NEAR = 0.05
"""Shares nearer than this are called equal: one sample in twenty."""


def claims(rows: Rows) -> list[str]:
    """A sentence for every claim that the rows can tell of."""
    full, early = (means_at(rows, budget) for budget in (1, EARLY))
    return [
        f"- {text}: {sentence}"
        for text, sentence in (
            ("Pivotal tuning damages the base less than LoRA alone", damage(full, "")),
            ("The same after a quarter of the steps", damage(early, "")),
            ("The same with prior preservation on both sides", damage(full, "_prior")),
            (
                "Prior preservation keeps more of the base",
                beats(full, "pivotal_prior", "pivotal", "base_kept"),
            ),
            ("An embedding transfers to another base better than weights", carried(full)),
            (
                "Starting from a word beats starting from noise",
                beats(full, "pivotal", "pivotal_noise", "fidelity"),
            ),
            (
                "The same after a quarter of the steps",
                beats(early, "pivotal", "pivotal_noise", "fidelity"),
            ),
            (
                "Negative embeddings raise fidelity, after a quarter of the steps",
                beats(early, "negative", "pivotal", "fidelity"),
            ),
        )
        if sentence
    ]


def means_at(rows: Rows, budget: float) -> Means:
    """The means of the character's rows at a share of the steps."""
    return Means([r for r in rows if (r["subject"], r["budget"]) == ("character", budget)])


class Means:
    """Means over seeds, by method and column."""

    def __init__(self, rows: Rows):
        self._rows = rows

    def has(self, *methods: str) -> bool:
        """Whether there are rows of all the methods."""
        return set(methods) <= {row["method"] for row in self._rows}

    def of(self, method: str, column: str) -> float:
        """The mean of a column over the seeds of a method."""
        values = [row[column] for row in self._rows if row["method"] == method]
        return sum(values) / len(values)


def damage(mean: Means, both: str) -> str:
    """What is left of the base after pivotal tuning and after LoRA, and the fidelity of each."""
    ours, theirs = f"pivotal{both}", f"lora{both}"
    if not mean.has(ours, theirs):
        return ""
    kept = mean.of(ours, "base_kept"), mean.of(theirs, "base_kept")
    numbers = (
        f"base kept {kept[0]:.2f} against {kept[1]:.2f}, at fidelity "
        f"{mean.of(ours, 'fidelity'):.2f} and {mean.of(theirs, 'fidelity'):.2f}"
    )
    return f"{verdict(kept[0] - kept[1])} ({numbers})."


def beats(mean: Means, ours: str, theirs: str, column: str) -> str:
    """Whether a method has more of a column than another."""
    if not mean.has(ours, theirs):
        return ""
    more, less = mean.of(ours, column), mean.of(theirs, column)
    label = column.replace("_", " ")
    return f"{verdict(more - less)} ({label} {more:.2f} against {less:.2f})."


def carried(mean: Means) -> str:
    """Each as the share of its fidelity at home that is left on the second base."""
    if not mean.has("textual_inversion", "lora"):
        return ""
    parts = {
        "the embedding of textual inversion": ("textual_inversion", "transfer_bundle"),
        "the LoRA": ("lora", "transfer_bundle"),
    }
    kept: list[float] = []
    for label, (method, column) in parts.items():
        home = mean.of(method, "fidelity")
        if home < NEAR:
            return f"not to be told: {label} shows the concept in only {home:.2f} at home."
        kept.append(mean.of(method, column) / home)
    numbers = f"{kept[0]:.2f} of its fidelity kept against {kept[1]:.2f}"
    return f"{verdict(kept[0] - kept[1])} ({numbers})."


def verdict(difference: float) -> str:
    """Held, not held or no difference, by how far two shares are apart."""
    if abs(difference) < NEAR:
        return "no difference here"
    return "held" if difference > 0 else "did not hold"
