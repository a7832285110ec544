"""The numbers of a run's steps, brought from the device without making it wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ....training.loop import StepReport
from ....training.trouble import Complaint, DivergenceCheck
from ....training.words.concepts import mentioned

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Sends dataclasses of small tensors to the CPU and hands them out, in order, on arrival."""

    def __init__(self) -> None:
        self._letters = deque[tuple[T, list[torch.cuda.Event]]]()

    def post(self, letter: T) -> None:
        """Start to copy every tensor in a dataclass."""
        devices = set[torch.device]()
        copied = _to_cpu(letter, devices)
        # An event covers the stream of one device, and a model may be spread over several.
        self._letters.append((copied, [_recorded(device) for device in devices]))

    def arrived(self, *, wait: bool = False) -> list[T]:
        """Everything that has arrived since the last call; with `wait`, everything posted."""
        letters: list[T] = []
        while self._letters:
            letter, events = self._letters[0]
            # `query` never blocks. A letter that is late holds back those behind it, whose turn
            # comes after the next step.
            if not wait and not all(event.query() for event in events):
                break
            for event in events:
                event.synchronize()
            letters.append(letter)
            self._letters.popleft()
        return letters


def _to_cpu(value: Any, devices: set[torch.device]) -> Any:
    """A copy whose tensors are on the CPU; `devices` gathers those that are still writing it."""
    if isinstance(value, Tensor):
        return _tensor_to_cpu(value.detach(), devices)
    if isinstance(value, Mapping):
        return {key: _to_cpu(inner, devices) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(_to_cpu(inner, devices) for inner in value)
    if is_dataclass(value) and not isinstance(value, type):
        copied = {f.name: _to_cpu(getattr(value, f.name), devices) for f in fields(value)}
        return replace(value, **copied)
    return value


def _tensor_to_cpu(tensor: Tensor, devices: set[torch.device]) -> Tensor:
    if tensor.device.type != "cuda":
        return tensor.to("cpu", copy=True)
    devices.add(tensor.device)
    # Only into pinned memory does a copy run behind the kernels that are queued already, while
    # the CPU prepares the next step; `.item()` would wait for all of them.
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def _recorded(device: torch.device) -> torch.cuda.Event:
    """An event that follows everything queued on a device so far, the copies included."""
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


@dataclass(frozen=True, kw_only=True, slots=True)
class StepNumbers:
    """The numbers of one step."""

    step: int
    """Steps done, this one included"""
    loss: float
    samples: tuple[tuple[frozenset[str], float], ...]
    """Of each picture, the concepts in its caption and its error"""
    norms: Mapping[str, float]
    """Gradient norm by optimizer"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _StepTensors:
    """The same while it is on its way."""

    step: int
    loss: Tensor
    concepts: tuple[frozenset[str], ...]
    errors: tuple[Tensor, ...]
    """One tensor per micro step, (batch,); together as long as `concepts`"""
    norms: Mapping[str, Tensor]

    def read(self) -> StepNumbers:
        errors = [error for batch in self.errors for error in batch.tolist()]
        return StepNumbers(
            step=self.step,
            loss=self.loss.item(),
            samples=tuple(zip(self.concepts, errors, strict=True)),
            norms={part: norm.item() for part, norm in self.norms.items()},
        )


class RunNumbers:
    """The losses of a whole run, those before a break included, and the latest steps' numbers."""

    def __init__(self, before: Sequence[float]):
        self.losses = list(before)
        self.complaint: Complaint | None = None
        """Why the run has to stop"""
        self._mailbox, self._divergence = Mailbox[_StepTensors](), DivergenceCheck()
        self._new: list[StepNumbers] = []

    def take(self, report: StepReport) -> None:
        """Send a step's numbers on their way, and read those that have arrived."""
        captions = [caption for loss in report.losses for caption in loss.captions]
        self._mailbox.post(
            _StepTensors(
                step=report.step + 1,
                loss=report.loss,
                concepts=tuple(mentioned(caption) for caption in captions),
                errors=tuple(loss.samples for loss in report.losses),
                norms=report.norms,
            )
        )
        self.read()

    def read(self, *, wait: bool = False) -> None:
        """Read what has arrived; with `wait`, everything up to the last step."""
        for tensors in self._mailbox.arrived(wait=wait):
            numbers = tensors.read()
            self.losses.append(numbers.loss)
            self._new.append(numbers)
            self.complaint = self.complaint or self._divergence.complaint(
                numbers.step, numbers.loss, numbers.norms
            )

    def new(self) -> list[StepNumbers]:
        """The steps that have been read since the last call."""
        steps, self._new = self._new, []
        return steps
