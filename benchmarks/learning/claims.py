"""What the literature claims of these methods, held against the rows, whichever way it falls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .choices import EARLY

Rows = Sequence[dict[str, Any]]
NEAR = 0.05
"""Shares nearer than this are called equal: one sample in twenty."""


def claims(rows: Rows) -> list[str]:
    """A sentence for every claim that the rows can tell of."""
    full, early = (means_at(rows, budget) for budget in (1, EARLY))
    moved = "An embedding transfers to another base better than weights"
    traded = "Pivotal tuning gives more fidelity for less damage than LoRA"
    started = "Starting from a word beats starting from noise"
    soon = "after a quarter of the steps"
    told = {
        traded: damage(full, ""),
        f"{traded}, {soon}": damage(early, ""),
        f"{traded}, with prior preservation on both sides": damage(full, "_prior"),
        "Prior preservation keeps more of the base": beats(
            full, "pivotal_prior", "pivotal", "base_kept"
        ),
        moved: carried(full),
        f"{moved}, of a new shape": carried(means_at(rows, 1, "shape")),
        f"{moved}, of a name for a color of the base": carried(means_at(rows, 1, "color")),
        "Weights learned beside an embedding transfer better than weights alone": beats(
            full, "pivotal", "lora", "transfer_bundle"
        ),
        started: beats(full, "pivotal", "pivotal_noise", "fidelity"),
        f"{started}, {soon}": beats(early, "pivotal", "pivotal_noise", "fidelity"),
        f"Negative embeddings raise fidelity, {soon}": beats(
            early, "negative", "pivotal", "fidelity"
        ),
    }
    return as_lines(told)


def as_lines(told: Mapping[str, str]) -> list[str]:
    """A line for every claim that there is a sentence for."""
    return [f"- {claim}: {sentence}" for claim, sentence in told.items() if sentence]


def means_at(rows: Rows, budget: float, subject: str = "character") -> Means:
    """The means of a subject's rows at a share of the steps."""
    return Means([row for row in rows if (row["subject"], row["budget"]) == (subject, budget)])


class Means:
    """Means by method and column, over the seeds that all compared methods have."""

    def __init__(self, rows: Rows):
        self._rows = rows

    def shared(self, *methods: str) -> Means | None:
        """The rows of the seeds that all the methods have; None where there is no such seed."""
        rows = [row for row in self._rows if row["method"] in methods]
        seeds = [{row["seed"] for row in rows if row["method"] == name} for name in methods]
        common = set.intersection(*seeds)
        return Means([row for row in rows if row["seed"] in common]) if common else None

    def of(self, method: str, column: str) -> float:
        """The mean of a column over the seeds of a method."""
        values = [row[column] for row in self._rows if row["method"] == method]
        return sum(values) / len(values)

    @property
    def seeds(self) -> str:
        """How many there are, in words."""
        number = len({row["seed"] for row in self._rows})
        return f"{number} seed{'s' if number > 1 else ''}"


def damage(mean: Means, both: str) -> str:
    """What is left of the base after pivotal tuning and after LoRA, and the fidelity of each."""
    ours, theirs = f"pivotal{both}", f"lora{both}"
    found = mean.shared(ours, theirs)
    if found is None:
        return ""
    kept = found.of(ours, "base_kept"), found.of(theirs, "base_kept")
    shown = found.of(ours, "fidelity"), found.of(theirs, "fidelity")
    return (
        f"{verdict(kept[0] - kept[1], shown[0] - shown[1])} (base kept {kept[0]:.2f} against "
        f"{kept[1]:.2f}, at fidelity {shown[0]:.2f} against {shown[1]:.2f}; {found.seeds})."
    )


def beats(mean: Means, ours: str, theirs: str, column: str) -> str:
    """Whether a method has more of a column than another."""
    found = mean.shared(ours, theirs)
    if found is None:
        return ""
    more, less = found.of(ours, column), found.of(theirs, column)
    label = column.replace("_", " ")
    return f"{verdict(more - less)} ({label} {more:.2f} against {less:.2f}; {found.seeds})."


def carried(mean: Means) -> str:
    """Each as the share of its fidelity at home that is left on the second base."""
    found = mean.shared("textual_inversion", "lora")
    if found is None:
        return ""
    kept: list[float] = []
    for label, method in (
        ("the embedding of textual inversion", "textual_inversion"),
        ("the LoRA", "lora"),
    ):
        home = found.of(method, "fidelity")
        if home < NEAR:
            return f"not to be told: {label} shows the concept in only {home:.2f} at home."
        kept.append(found.of(method, "transfer_bundle") / home)
    numbers = f"{kept[0]:.2f} of its fidelity kept against {kept[1]:.2f}; {found.seeds}"
    return f"{verdict(kept[0] - kept[1])} ({numbers})."


def verdict(*differences: float) -> str:
    """What differences say together: better is better in one of them and worse in none."""
    if all(abs(one) < NEAR for one in differences):
        return "no difference here"
    if all(one > -NEAR for one in differences):
        return "held"
    return "did not hold" if all(one < NEAR for one in differences) else "not to be told"
