"""What the literature claims about these methods, compared with the rows, whatever they say."""

from __future__ import annotations

from collections.abc import Mapping

from .cells import EARLY, LONG, SHORT
from .methods import KINDS, OTHER_RANKS, RANK, STARTS, adapter_name
from .scores import JUDGED, Rows, best_rate
from .subjects import SCATTERED

NEAR = 0.05
"""Shares that differ by less are called equal: one sample in twenty."""


def claims(rows: Rows) -> list[str]:
    """One line for every claim that the rows can support or contradict."""
    return [*method_claims(rows), *adapter_claims(rows)]


def method_claims(rows: Rows) -> list[str]:
    """Claims about pivotal tuning, its parts and its alternatives."""
    full, early = (means_at(rows, budget) for budget in (1, EARLY))
    moved = "An embedding transfers to another base better than weights"
    traded = "Pivotal tuning gives more fidelity for less damage than LoRA"
    started = "Starting from a word beats starting from noise"
    soon = "after a quarter of the steps"
    sentences = {
        traded: damage(full, ""),
        f"{traded}, {soon}": damage(early, ""),
        f"{traded}, with prior preservation on both sides": damage(full, "_prior"),
        "Prior preservation keeps more of the base": beats(
            full, "pivotal_prior", "pivotal", "base_kept"
        ),
        moved: carried(full),
        f"{moved}, for a new shape": carried(means_at(rows, 1, "shape")),
        f"{moved}, for a new name of a color of the base": carried(means_at(rows, 1, "color")),
        "Weights learned together with an embedding transfer better than weights alone": beats(
            full, "pivotal", "lora", "transfer_bundle"
        ),
        started: beats(full, "pivotal", "pivotal_noise", "fidelity"),
        f"{started}, {soon}": beats(early, "pivotal", "pivotal_noise", "fidelity"),
        f"Negative embeddings raise fidelity, {soon}": beats(
            early, "negative", "pivotal", "fidelity"
        ),
    }
    return as_lines(sentences)


def adapter_claims(rows: Rows) -> list[str]:
    """Claims of the TriLoRA paper, each adapter at its own best rate and at equal parameters."""
    rates = {kind: best_rate(rows, kind) for kind in KINDS}
    ours, theirs = rates["trilora"], rates["lora"]
    if ours is None or theirs is None:
        return []
    budgets = {
        "at the budget": 1.0,
        "after a fifth of the steps": SHORT,
        "after ten times the steps, where it is said to overfit less": LONG,
    }
    best = adapter_name("trilora", RANK, ours), adapter_name("lora", RANK, theirs)
    sentences = {
        f"TriLoRA beats LoRA {when}": against(means_at(rows, budget, SCATTERED), *best)
        for when, budget in budgets.items()
    }
    full = means_at(rows, 1.0, SCATTERED)
    for rank in OTHER_RANKS:
        names = adapter_name("trilora", rank, ours), adapter_name("lora", rank, theirs)
        sentences[f"TriLoRA beats LoRA at rank {rank}"] = against(full, *names)
    plain = STARTS["trilora"].value
    for kind, start in STARTS.items():
        rate = rates[kind]
        if kind != "trilora" and rate is not None:
            claim = f"TriLoRA's start `{start.value}` beats its start `{plain}`"
            sentences[claim] = against(full, adapter_name(kind, RANK, rate), best[0])
    return as_lines(sentences)


def as_lines(sentences: Mapping[str, str]) -> list[str]:
    """A list item for every claim that has a sentence."""
    return [f"- {claim}: {sentence}" for claim, sentence in sentences.items() if sentence]


def means_at(rows: Rows, budget: float, subject: str = "character") -> Means:
    """The means of a subject's rows at a share of its steps."""
    return Means([row for row in rows if (row["subject"], row["budget"]) == (subject, budget)])


class Means:
    """Means by method and column, over the seeds of its rows."""

    def __init__(self, rows: Rows):
        self._rows = rows

    def shared(self, *methods: str) -> Means | None:
        """The rows of the seeds that all these methods have; None if there is no such seed."""
        rows = [row for row in self._rows if row["method"] in methods]
        seeds = [{row["seed"] for row in rows if row["method"] == name} for name in methods]
        common = set.intersection(*seeds)
        return Means([row for row in rows if row["seed"] in common]) if common else None

    def of(self, method: str, column: str) -> float:
        values = [row[column] for row in self._rows if row["method"] == method]
        return sum(values) / len(values)

    @property
    def seeds(self) -> str:
        """How many seeds there are, as words of a sentence."""
        number = len({row["seed"] for row in self._rows})
        return f"{number} seed{'s' if number > 1 else ''}"


def damage(mean: Means, both: str) -> str:
    """How much of the base pivotal tuning and LoRA keep, with the fidelity of each."""
    ours, theirs = f"pivotal{both}", f"lora{both}"
    pair = mean.shared(ours, theirs)
    if pair is None:
        return ""
    kept = pair.of(ours, "base_kept"), pair.of(theirs, "base_kept")
    shown = pair.of(ours, "fidelity"), pair.of(theirs, "fidelity")
    return (
        f"{verdict(kept[0] - kept[1], shown[0] - shown[1])} (base kept {kept[0]:.2f} against "
        f"{kept[1]:.2f}, at fidelity {shown[0]:.2f} against {shown[1]:.2f}; {pair.seeds})."
    )


def beats(mean: Means, ours: str, theirs: str, column: str) -> str:
    """Whether one method has more of a column than another."""
    pair = mean.shared(ours, theirs)
    if pair is None:
        return ""
    more, less = pair.of(ours, column), pair.of(theirs, column)
    label = column.replace("_", " ")
    return f"{verdict(more - less)} ({label} {more:.2f} against {less:.2f}; {pair.seeds})."


def carried(mean: Means) -> str:
    """How much of its fidelity each of an embedding and a LoRA keeps on the second base."""
    pair = mean.shared("textual_inversion", "lora")
    if pair is None:
        return ""
    kept: list[float] = []
    for label, method in (
        ("the embedding of textual inversion", "textual_inversion"),
        ("the LoRA", "lora"),
    ):
        home = pair.of(method, "fidelity")
        if home < NEAR:
            return f"undecided: {label} reaches a fidelity of only {home:.2f} on its own base."
        kept.append(pair.of(method, "transfer_bundle") / home)
    numbers = f"{kept[0]:.2f} of its fidelity kept against {kept[1]:.2f}; {pair.seeds}"
    return f"{verdict(kept[0] - kept[1])} ({numbers})."


def against(mean: Means, ours: str, theirs: str) -> str:
    """The judged scores and the variety of two adapters, side by side."""
    pair = mean.shared(ours, theirs)
    if pair is None:
        return ""
    scores = {name: (pair.of(ours, name), pair.of(theirs, name)) for name in JUDGED}
    listed = ", ".join(
        f"{name.replace('_', ' ')} {more:.2f} against {less:.2f}"
        for name, (more, less) in scores.items()
    )
    variety = f"variety {pair.of(ours, 'variety'):.3f} against {pair.of(theirs, 'variety'):.3f}"
    rates = " and ".join(name.rpartition("rate")[2] for name in (ours, theirs))
    decision = verdict(*(more - less for more, less in scores.values()))
    return f"{decision} ({listed}, {variety}; rates {rates}; {pair.seeds})."


def verdict(*differences: float) -> str:
    """A claim holds if something is better and nothing is worse."""
    if all(abs(difference) < NEAR for difference in differences):
        return "no difference here"
    if all(difference > -NEAR for difference in differences):
        return "held"
    return "did not hold" if all(difference < NEAR for difference in differences) else "undecided"
