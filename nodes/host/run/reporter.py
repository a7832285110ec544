"""What a run tells while it trains: lines in its journal, and the same as events."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from typing import Any

import comfy.model_management as management
from torch import Tensor

from ....training.loop import Parts, StepReport
from ..events import send_event
from ..text.port import HostTextEncoder
from .live import LiveRun
from .numbers import Course, Mailbox, Numbers
from .run_folder import RunFolder

SECONDS_BETWEEN_REPORTS = 0.5
SECONDS_BETWEEN_LOOKS_AT_VECTORS = 10.0
WORDS = 3


class Reporter:
    """Writes a line now and then; a disk that refuses gets it later."""

    def __init__(
        self, folder: RunFolder, live: LiveRun, course: Course, parts: Parts, text: HostTextEncoder
    ):
        self._folder, self._live, self._course, self._text = folder, live, course, text
        self._written = folder.rewind(len(course.losses))
        self._unwritten = ""
        self._started = self._last = time.monotonic()
        self._looked = float("-inf")
        self._begun, self._trouble = len(course.losses), None
        self._mailbox = Mailbox()
        self._origin = {
            (name, key): rows.detach().clone()
            for name, part in parts.vectors.items()
            for key, rows in part.items()
        }

    def tell(self, report: StepReport) -> None:
        """Report the steps since the last report, unless that was just now."""
        now, done = time.monotonic(), report.step + 1
        first_or_last = done in (self._begun + 1, self._live.steps)
        if not first_or_last and now - self._last < SECONDS_BETWEEN_REPORTS:
            return
        self._last = now
        if now - self._looked >= SECONDS_BETWEEN_LOOKS_AT_VECTORS:
            self._looked = now
            self._look_at_vectors(report)
        self._report(report, self._course.new())

    def close(self, report: StepReport | None) -> None:
        """Report what is left."""
        self._course.look(wait=True)
        if report is not None:
            self._report(report, self._course.new())

    def note(self, step: int, **what: Any) -> None:
        """Write a line about something else than a step's numbers."""
        self._write({"step": step, **what})

    def _report(self, report: StepReport, numbers: list[Numbers]) -> None:
        if not numbers:
            return
        seconds, last = time.monotonic() - self._started, numbers[-1]
        line: dict[str, Any] = {"step": last.step, "steps": self._live.steps, "loss": last.loss}
        line |= {"seconds": round(seconds, 3), "pace": seconds / max(last.step - self._begun, 1)}
        line |= {"losses": [one.loss for one in numbers], "norms": last.norms}
        line |= {"concepts": by_concept(numbers), **rates(report), "memory": memory(report)}
        for _, tensors in self._mailbox.arrived():
            line |= self._told(tensors)
        if self._folder.disk.trouble != self._trouble:
            self._trouble = self._folder.disk.trouble
            line["trouble"] = self._trouble or "The disk takes files again."
        self._live.latest = line
        self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        line = finite(line)
        self._unwritten += json.dumps(line) + "\n"
        place = self._folder.journal
        if self._folder.disk.attempt("The journal", place, self._append):
            self._unwritten = ""
        elif not self._unwritten.startswith("\n"):
            # A part of it may be there, which is no line then.
            self._unwritten = "\n" + self._unwritten
        where = {"run": self._live.name, "node": self._live.node, "index": self._written}
        send_event("report", {**where, "report": line})
        self._written += 1

    def _append(self) -> None:
        with open(self._folder.journal, "a", encoding="utf-8") as journal:
            journal.write(self._unwritten)

    def _look_at_vectors(self, report: StepReport) -> None:
        """Send on their way: how far each live concept has moved, and its nearest words."""
        vectors, tensors = report.run.parts.vectors, dict[str, Tensor]()
        for (name, key), origin in self._origin.items():
            if name in report.run.live:
                rows, start = vectors[name][key].detach(), origin.to(vectors[name][key].device)
                moved = (rows - start).norm(dim=-1) / start.norm(dim=-1).clamp(min=1e-12)
                tensors[f"movement/{name}/{key}"] = moved.mean()
                tensors[f"nearest/{name}/{key}"] = self._text.nearest(key, rows, WORDS)
        if tensors:
            self._mailbox.post(None, tensors)

    def _told(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        found: dict[str, dict[str, Any]] = {"movement": {}, "nearest": {}}
        for path, tensor in tensors.items():
            kind, _, rest = path.partition("/")
            name, _, key = rest.rpartition("/")
            if kind == "movement":
                found[kind].setdefault(name, {})[key] = tensor.item()
            else:
                rows = tensor.tolist()
                words = [[self._text.word(key, number) for number in row] for row in rows]
                found[kind].setdefault(name, {})[key] = words
        return found


def finite(value: Any) -> Any:
    """The same with None for what is not a finite number, which browsers do not read in JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, list) else value


def by_concept(numbers: list[Numbers]) -> dict[str, float]:
    """The mean error of each concept's pictures in these steps."""
    found = defaultdict[str, list[float]](list)
    for one in numbers:
        for names, error in one.samples:
            for name in names:
                found[name].append(error)
    return {name: sum(errors) / len(errors) for name, errors in sorted(found.items())}


def rates(report: StepReport) -> dict[str, Any]:
    """Learning rate of each part, and Prodigy's estimate of the step size where it is used."""
    groups = {part: made.param_groups[0] for part, made in report.run.optimizers.items()}
    found = {part: float(group["lr"]) for part, group in groups.items()}
    sizes = {part: float(group["d"]) for part, group in groups.items() if "d" in group}
    return {"rates": found, "d": sizes}


def memory(report: StepReport) -> int:
    """Bytes in use on the device that trains."""
    device = next(iter(report.run.parts.parameters().values())).device
    return int(management.get_total_memory(device) - management.get_free_memory(device))
