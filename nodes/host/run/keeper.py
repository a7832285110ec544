"""Saves a run: its state at intervals and however it ends, its bundles and its best step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ....bundles.bundle import Bundle
from ....training.commands import Command, to_freeze
from ....training.loop import StepReport
from ....training.parts import Parts
from ....training.run import Run
from ....training.state import RunState, averages
from ....training.trained import all_learned
from ..disk import below_output
from .live import CHECKPOINT, FINISH
from .numbers import RunNumbers
from .request import Request
from .result import make_bundle, make_peft
from .run_folder import RunFolder

BEST = "best."
Result = tuple[Bundle, Mapping[str, Tensor]]
"""The bundle, and what of it diffusers needs in a file of its own: often nothing"""


class Keeper:
    """On the way out of its context it saves the last whole step, unless that is saved already."""

    def __init__(
        self,
        folder: RunFolder,
        request: Request,
        parts: Parts,
        base: tuple[str, str],
        start: RunState | None,
    ):
        """`base` is the family and the digest of the model that is trained on."""
        self.folder, self.parts = folder, parts
        self._request, self._base = request, base
        self.numbers = RunNumbers(start.losses if start else ())
        self.validations = list(start.validations) if start else []
        self.events = list(start.events) if start else []
        self._best = {n: t for n, t in start.tensors.items() if n.startswith(BEST)} if start else {}
        self._averages = averages(start.tensors) if start else {}
        self._last: StepReport | None = None
        self._commands: Sequence[Command] = ()
        self._saved = False

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_: object) -> None:
        if self._last is not None and not self._saved:
            self.save()

    def step_done(self, report: StepReport) -> None:
        """This is the step to save from now on; a report is no copy, so the one before is gone."""
        self.numbers.take(report)
        self._last, self._commands, self._saved = report, (), False

    def record(self, what: str, step: int, **more: Any) -> None:
        """Record an event: what a person requested of the run, or what was decided for it."""
        self.events.append({"step": step, "what": what, **more})

    def sent(self, commands: Sequence[Command]) -> None:
        """The loop carries these out before its next step; a state saved now says they are done."""
        self._commands = commands

    def record_best(self, run: Run) -> None:
        """Record the current parameters as the best so far."""
        with run.averaged():
            now = self.parts.parameters().items()
            self._best = {f"{BEST}{n}": p.detach().to("cpu", copy=True) for n, p in now}

    def save(self) -> bool:
        """Save the last step; returns whether it could be written."""
        assert self._last is not None
        # A state holds the losses of all its steps, so here the CPU waits for the last one.
        self.numbers.read(wait=True)
        # When the loop has ended by itself, Schedule-Free's parameters hold their average by now;
        # when it was closed by Cancel, and for every checkpoint on the way, the point at which
        # gradients are taken. Both are good: the state says which (`train_mode` in state.py).
        state, run = self._last.state(), self._last.run
        frozen_now = dict.fromkeys(to_freeze(self._commands, run.live), state.step)
        state = replace(
            state,
            tensors={**state.tensors, **self._best},
            pivots={**state.pivots, **frozen_now},
            losses=tuple(self.numbers.losses),
            validations=tuple(self.validations),
            events=tuple(self.events),
        )
        # The bundle is for people, so it holds what the run would give as its result now.
        with run.averaged():
            bundle, _ = self.bundle()
            saved = self.folder.save(state, bundle)
        # After the write and never before it: a full disk must not cost the older checkpoints.
        pinned = {event["step"] for event in self.events if event["what"] == CHECKPOINT}
        self.folder.retain(self._request.keep_checkpoints, pinned)
        self._saved = saved
        return saved

    def stop(self, run: Run, *, exploded: bool) -> None:
        """The run has gone wrong: save its last step only if that is still good."""
        values = run.parts.parameters().values()
        if exploded or not all(bool(value.isfinite().all()) for value in values):
            self._last = None
        elif not self._saved:
            self.save()

    def whereabouts(self) -> str:
        """One sentence about what is saved."""
        steps = self.folder.saved_steps()
        if not steps:
            return "No step was saved: the next start is from the beginning."
        place = below_output(self.folder.path)
        return f"The run is saved as of step {steps[-1]} in {place} in ComfyUI's output folder."

    def bundle(self) -> Result:
        """The parameters as they are, with the events of the run."""
        learned = all_learned(self.parts.trained)
        bundle = make_bundle(self._request, learned, *self._base)
        peft = make_peft(learned, self._base[0])
        # A checkpoint changes nothing that is learned.
        events = [event for event in self.events if event["what"] != CHECKPOINT]
        if events:
            bundle = replace(bundle, recipe={**bundle.recipe, "events": events})
        return bundle, peft

    def result(self) -> Result:
        """What the run gives: its best step, its average or its last step, as was requested."""
        if self._best:
            put(self.parts.parameters(), {n.removeprefix(BEST): t for n, t in self._best.items()})
        elif self._last is not None:
            with self._last.run.averaged():
                return self.bundle()
        elif self._averages:
            put(self.parts.parameters(), self._averages)
        return self.bundle()


def without_verdicts(state: RunState) -> RunState:
    """A state for another run to start from, without what the old run was judged by.

    The old run's best step would be given in place of what the new one learns, and the event
    that finished the old run would finish the new one.
    """
    return replace(
        state,
        tensors={n: t for n, t in state.tensors.items() if not n.startswith(BEST)},
        validations=(),
        events=tuple(event for event in state.events if event["what"] != FINISH),
    )


def put(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write saved values into parameters."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
