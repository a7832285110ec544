"""Keeps a run: its state every so many steps and however it ends, its bundles, its best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ....bundles.bundle import Bundle
from ....training.commands import Command, to_freeze
from ....training.loop import Parts, StepReport
from ....training.run import Run
from ....training.state import RunState, averages
from .live import FINISH
from .numbers import RunNumbers
from .request import Request
from .result import make_bundle, make_peft
from .run_folder import RunFolder

BEST = "best."
KEPT = "checkpoint"
"""The event of a checkpoint that was asked for, and so is not deleted for newer ones"""


class Keeper:
    """On the way out of its context it keeps the last whole step."""

    def __init__(
        self,
        folder: RunFolder,
        request: Request,
        parts: Parts,
        base: tuple[str, str],
        start: RunState | None,
    ):
        """`base` is the family and the digest of the model that is trained on."""
        self.folder, self._request, self._parts, self._base = folder, request, parts, base
        self.numbers = RunNumbers(start.losses if start else ())
        self.validations = list(start.validations) if start else []
        self.events = list(start.events) if start else []
        self._best = {n: t for n, t in start.tensors.items() if n.startswith(BEST)} if start else {}
        self._averages = averages(start.tensors) if start else {}
        self._last: StepReport | None = None
        self._commands: Sequence[Command] = ()
        self._saved = False
        self.peft: Mapping[str, Tensor] = {}
        """What the bundle that was made last is for diffusers, where that is another file."""

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_: object) -> None:
        if self._last is not None and not self._saved:
            self.save()

    def take(self, report: StepReport) -> None:
        """A step is done."""
        self.numbers.take(report)
        self._last, self._commands, self._saved = report, (), False

    def record(self, what: str, step: int, **more: Any) -> None:
        """Remember what was asked of the run or decided for it."""
        self.events.append({"step": step, "what": what, **more})

    def sent(self, commands: Sequence[Command]) -> None:
        """The loop will get these before its next step, so a state kept now has them done."""
        self._commands = commands

    def keep_best(self, run: Run) -> None:
        """The run as it is now is the best so far."""
        with run.averaged():
            now = self._parts.parameters().items()
            self._best = {f"{BEST}{n}": p.detach().to("cpu", copy=True) for n, p in now}

    def save(self) -> bool:
        """Keep the last step; whether it could be written."""
        assert self._last is not None
        self.numbers.read(wait=True)
        state, run = self._last.state(), self._last.run
        now = dict.fromkeys(to_freeze(self._commands, run.live), state.step)
        state = replace(
            state,
            tensors={**state.tensors, **self._best},
            pivots={**state.pivots, **now},
            losses=tuple(self.numbers.losses),
            validations=tuple(self.validations),
            events=tuple(self.events),
        )
        with run.averaged():
            kept = self.folder.save(state, self.bundle())
        pinned = {event["step"] for event in self.events if event["what"] == KEPT}
        self.folder.retain(self._request.keep_checkpoints, pinned)
        self._saved = kept
        return kept

    def stop(self, run: Run, *, exploded: bool) -> None:
        """The run has gone wrong: keep its last step only if that is still good."""
        values = run.parts.parameters().values()
        if exploded or not all(bool(value.isfinite().all()) for value in values):
            self._last = None
        elif not self._saved:
            self.save()

    def whereabouts(self) -> str:
        """One sentence about what is kept."""
        steps = self.folder.steps_kept()
        if not steps:
            return "No step was kept: the next start is from the beginning."
        return f"The run is kept as of step {steps[-1]} in {self.folder.path}."

    def bundle(self) -> Bundle:
        """The parameters as they are, with what was asked of the run on its way."""
        made = make_bundle(self._request, self._parts, *self._base)
        self.peft = make_peft(self._parts, self._base[0])
        told = [event for event in self.events if event["what"] != KEPT]
        return replace(made, recipe={**made.recipe, "events": told}) if told else made

    def result(self) -> Bundle:
        """What the run gives: its best, its average or its last step, as it was told."""
        if self._best:
            put(self._parts.parameters(), {n.removeprefix(BEST): t for n, t in self._best.items()})
        elif self._last is not None:
            with self._last.run.averaged():
                return self.bundle()
        elif self._averages:
            put(self._parts.parameters(), self._averages)
        return self.bundle()


def without_verdicts(state: RunState) -> RunState:
    """A state for another run to begin from: what the old one was judged by is not its own.

    Its best step would be given in place of what the new one learns, and its end would end it.
    """
    return replace(
        state,
        tensors={n: t for n, t in state.tensors.items() if not n.startswith(BEST)},
        validations=(),
        events=tuple(event for event in state.events if event["what"] != FINISH),
    )


def put(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write kept values into parameters."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
