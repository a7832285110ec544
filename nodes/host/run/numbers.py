"""The course of a run: losses and gradient norms of its steps, as they come off the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ....training.loop import StepReport
from ....training.trouble import Complaint, Health
from ....training.words.concepts import mentioned
from .mailbox import Mailbox

NORM = "norm."


@dataclass(frozen=True, slots=True)
class Numbers:
    """What one step came to."""

    step: int
    """Steps done, this one included"""
    loss: float
    samples: tuple[tuple[frozenset[str], float], ...]
    """The concepts in each picture's caption, and its error"""
    norms: dict[str, float] = field(default_factory=dict)


class Course:
    """All losses of a run, those before a break included."""

    def __init__(self, before: Sequence[float]):
        self.losses = list(before)
        self.complaint: Complaint | None = None
        """Why the run has to stop"""
        self._mailbox, self._health = Mailbox(), Health()
        self._new: list[Numbers] = []

    def take(self, report: StepReport) -> None:
        """Send a step's numbers on their way, and look at those that have come."""
        names = [mentioned(caption) for loss in report.losses for caption in loss.captions]
        tensors = {f"samples.{i}": loss.samples for i, loss in enumerate(report.losses)}
        tensors["loss"] = report.loss
        tensors |= {f"{NORM}{part}": norm for part, norm in report.norms.items()}
        self._mailbox.post((report.step + 1, names), tensors)
        self.look()

    def look(self, *, wait: bool = False) -> None:
        """Take in what has come; with `wait`, everything up to the last step."""
        for (step, names), tensors in self._mailbox.arrived(wait=wait):
            places = [n for n in tensors if n.startswith("samples.")]
            errors = [value for name in places for value in tensors[name].tolist()]
            norms = {n.removeprefix(NORM): t.item() for n, t in tensors.items() if NORM in n}
            loss = tensors["loss"].item()
            self.losses.append(loss)
            self._new.append(Numbers(step, loss, tuple(zip(names, errors, strict=True)), norms))
            self.complaint = self.complaint or self._health.complaint(step, loss, norms)

    def new(self) -> list[Numbers]:
        """What has come since the last call."""
        found, self._new = self._new, []
        return found
