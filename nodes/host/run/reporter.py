"""What a run reports while it trains: lines in its journal, and the same as events."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management as management
from torch import Tensor

from ....training.loop import StepReport
from ....training.parts import Parts
from ....training.series import CONCEPTS, LOSS, MOVEMENT, NORMS, PRODIGY_D, RATES
from ....training.trained import all_places
from ..events import send_event
from ..text.port import HostTextEncoder
from .live import LiveRun
from .numbers import Mailbox, RunNumbers, StepNumbers
from .run_folder import RunFolder

SECONDS_BETWEEN_REPORTS = 0.5
SECONDS_BETWEEN_LOOKS_AT_VECTORS = 10.0
WORDS = 3
"""Nearest words that are reported for each vector"""


@dataclass(frozen=True, slots=True)
class _VectorTensors:
    """How far the vectors have moved and which words each row is near, by concept and encoder."""

    movement: Mapping[str, Mapping[str, Tensor]]
    nearest: Mapping[str, Mapping[str, Tensor]]


class Reporter:
    """Reports now and then; a line that the disk refuses is written with the next one."""

    def __init__(
        self,
        folder: RunFolder,
        live: LiveRun,
        numbers: RunNumbers,
        parts: Parts,
        text: HostTextEncoder,
    ):
        self._folder, self._live, self._numbers, self._text = folder, live, numbers, text
        self._written = folder.rewind(len(numbers.losses))
        self._unwritten = deque[dict[str, Any]]()
        self._started = self._last = time.monotonic()
        self._looked = float("-inf")
        self._begun, self._trouble = len(numbers.losses), None
        self._mailbox = Mailbox[_VectorTensors]()
        self._origin = {
            name: {key: rows.detach().clone() for key, rows in encoders.items()}
            for name, encoders in rows_of(parts).items()
        }

    def report_step(self, report: StepReport) -> None:
        """Report the steps since the last report, unless that was just now."""
        now, done = time.monotonic(), report.step + 1
        first_or_last = done in (self._begun + 1, self._live.steps)
        if not first_or_last and now - self._last < SECONDS_BETWEEN_REPORTS:
            return
        self._last = now
        if now - self._looked >= SECONDS_BETWEEN_LOOKS_AT_VECTORS:
            self._looked = now
            self._look_at_vectors(report)
        self._report_numbers(report, self._numbers.new())

    def close(self, report: StepReport | None) -> None:
        """Report the steps that have not been reported; waits for their numbers."""
        self._numbers.read(wait=True)
        if report is not None:
            self._report_numbers(report, self._numbers.new())

    def report(self, step: int, **what: Any) -> None:
        """Report something other than a step's own numbers."""
        self._write({"step": step, **what})

    def _report_numbers(self, report: StepReport, steps: list[StepNumbers]) -> None:
        if not steps:
            return
        seconds, last = time.monotonic() - self._started, steps[-1]
        line: dict[str, Any] = {"step": last.step, "steps": self._live.steps, "loss": last.loss}
        line |= {"seconds": round(seconds, 3), "pace": seconds / max(last.step - self._begun, 1)}
        line |= {LOSS.key: [step.loss for step in steps], NORMS.key: last.norms}
        line |= {CONCEPTS.key: by_concept(steps), **rates(report), "memory": memory(report)}
        for vectors in self._mailbox.arrived():
            line |= self._vector_numbers(vectors)
        if self._folder.disk.trouble != self._trouble:
            self._trouble = self._folder.disk.trouble
            line["trouble"] = self._trouble or "The disk takes files again."
        self._live.latest = line
        self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        line = finite(line)
        self._unwritten.append(line)
        while self._unwritten and self._append(self._unwritten[0]):
            self._unwritten.popleft()
        # By its index the page knows whether it has missed one and has to read the journal.
        where = {"run": self._live.name, "node": self._live.node, "index": self._written}
        send_event("report", {**where, "report": line})
        self._written += 1

    def _append(self, line: dict[str, Any]) -> bool:
        journal = self._folder.journal
        # Numbers are not worth a sync, which may wait for whatever else the machine is writing: a
        # checkpoint holds the losses too. Events are rare, and syncing one syncs the lines before.
        sync = LOSS.key not in line
        return self._folder.disk.write(
            "The journal", journal.path, lambda _: journal.add(line, sync=sync)
        )

    def _look_at_vectors(self, report: StepReport) -> None:
        """Send on its way how far each live concept has moved, and its nearest words."""
        parts = report.run.parts
        live = {n: rows for n, rows in rows_of(parts).items() if n in report.run.live}
        read = all_places(parts.trained).vectors
        if live:
            movement = {name: self._movement(name, encoders) for name, encoders in live.items()}
            nearest = {
                name: {
                    k: self._text.nearest(k, rows.detach(), WORDS) for k, rows in encoders.items()
                }
                for name, encoders in live.items()
                # Only what an encoder reads is near to words of its table.
                if name in read
            }
            self._mailbox.post(_VectorTensors(movement, nearest))

    def _movement(self, name: str, encoders: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """How far a concept's rows are from where they began, in their own lengths then."""
        moved = dict[str, Tensor]()
        for key, rows in encoders.items():
            start = self._origin[name][key].to(rows.device)
            distance = (rows.detach() - start).norm(dim=-1)
            moved[key] = (distance / start.norm(dim=-1).clamp(min=1e-12)).mean()
        return moved

    def _vector_numbers(self, vectors: _VectorTensors) -> dict[str, Any]:
        movement = {
            name: {key: moved.item() for key, moved in encoders.items()}
            for name, encoders in vectors.movement.items()
        }
        nearest = {
            name: {
                key: [[self._text.word(key, number) for number in row] for row in rows.tolist()]
                for key, rows in encoders.items()
            }
            for name, encoders in vectors.nearest.items()
        }
        return {MOVEMENT.key: movement, "nearest": nearest}


def rows_of(parts: Parts) -> dict[str, Mapping[str, Tensor]]:
    """The rows of each concept by encoder key, read by the encoders or returned by them."""
    places = all_places(parts.trained)
    return {**places.vectors, **places.outputs}


def finite(value: Any) -> Any:
    """The same value with None for NaN and infinity, which browsers do not accept in JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list) else value


def by_concept(steps: Sequence[StepNumbers]) -> dict[str, float]:
    """The mean error of each concept's pictures in these steps."""
    errors = defaultdict[str, list[float]](list)
    for step in steps:
        for names, error in step.samples:
            for name in names:
                errors[name].append(error)
    return {name: sum(values) / len(values) for name, values in sorted(errors.items())}


def rates(report: StepReport) -> dict[str, Any]:
    """Learning rate of each part, and Prodigy's estimate of the step size where it is used."""
    groups = {part: one.param_groups[0] for part, one in report.run.optimizers.items()}
    return {
        RATES.key: {part: float(group["lr"]) for part, group in groups.items()},
        PRODIGY_D.key: {part: float(group["d"]) for part, group in groups.items() if "d" in group},
    }


def memory(report: StepReport) -> int:
    """Bytes in use on the device that trains."""
    device = next(iter(report.run.parts.parameters().values())).device
    total: Any = management.get_total_memory(device)
    free: Any = management.get_free_memory(device)
    return int(total - free)
