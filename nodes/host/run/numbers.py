"""The course of a run: losses and gradient norms of its steps, as they come off the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ....training.loop import StepReport
from ....training.trouble import Complaint, DivergenceCheck
from ....training.words.concepts import mentioned

NORM = "norm."


@dataclass(slots=True)
class _Letter:
    about: Any
    numbers: dict[str, Tensor]
    events: list[torch.cuda.Event]


class Mailbox:
    """Takes small tensors and gives them back on the CPU, in order, once they have come.

    On CUDA the copy goes into pinned memory while the device works on, and only an event says
    when it has come; elsewhere a copy is all there is to do.
    """

    def __init__(self) -> None:
        self._letters = deque[_Letter]()

    def post(self, about: Any, tensors: Mapping[str, Tensor]) -> None:
        """Send tensors on their way with a note of what they are."""
        numbers, places = dict[str, Tensor](), set[torch.device]()
        for name, tensor in tensors.items():
            if tensor.device.type == "cuda":
                numbers[name] = torch.empty_like(tensor, device="cpu", pin_memory=True)
                numbers[name].copy_(tensor.detach(), non_blocking=True)
                places.add(tensor.device)
            else:
                numbers[name] = tensor.detach().to("cpu", copy=True)
        # Each device tells of its own copies, also one that is not the current one.
        events = {place: torch.cuda.Event() for place in places}
        for place, event in events.items():
            event.record(torch.cuda.current_stream(place))
        self._letters.append(_Letter(about, numbers, list(events.values())))

    def arrived(self, *, wait: bool = False) -> list[tuple[Any, dict[str, Tensor]]]:
        """All that has come since the last call; with `wait`, all that is on its way."""
        found: list[tuple[Any, dict[str, Tensor]]] = []
        while self._letters:
            letter = self._letters[0]
            if not wait and not all(event.query() for event in letter.events):
                break
            for event in letter.events:
                event.synchronize()
            found.append((letter.about, letter.numbers))
            self._letters.popleft()
        return found


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
        self._mailbox, self._divergence = Mailbox(), DivergenceCheck()
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
            self.complaint = self.complaint or self._divergence.complaint(step, loss, norms)

    def new(self) -> list[Numbers]:
        """What has come since the last call."""
        found, self._new = self._new, []
        return found
