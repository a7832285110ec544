"""What happens after each step of a run: it is reported, validated, previewed and saved."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from ....training.commands import Command, Finish, Pivot
from ....training.loop import StepReport
from ....training.series import VALIDATION
from ....training.validation import best_step, is_over, stalled, validate
from ..versions import is_oom
from .keeper import Keeper
from .live import CHECKPOINT, FINISH, PIVOT, PREVIEW, LiveRequest, LiveRun
from .previews import Previewer
from .reporter import Reporter
from .request import Request

LOG = logging.getLogger(__name__)


class Watcher(Protocol):
    """Whoever a run is driven for; entered before the first step and left after the last."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *error: Any) -> Any: ...

    def see(self, report: StepReport) -> Sequence[Command]:
        """Do what follows from a step; returns what the loop is to do before the next one."""
        ...


class Follower:
    """The watcher of a process that only computes: the first one reports, decides and saves."""

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def see(self, report: StepReport) -> Sequence[Command]:
        return ()


class Watch:
    """The watcher that reports, validates, previews and saves."""

    def __init__(
        self,
        request: Request,
        live: LiveRun,
        keeper: Keeper,
        reporter: Reporter,
        previewer: Previewer | None,
    ):
        self._request, self._live, self._keeper = request, live, keeper
        self._reporter, self._previewer = reporter, previewer
        self._last: StepReport | None = None
        self._was_split = False
        self.name, self.begun = live.name, len(keeper.numbers.losses)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        # The keeper saves though the last report could not be made.
        with self._keeper:
            self._reporter.close(self._last)

    def see(self, report: StepReport) -> list[Command]:
        # Taken once, first: what is requested while this step is handled waits for the next one.
        self._last, requests, done = report, self._live.take_requests(), report.step + 1
        self._keeper.step_done(report)
        self._check(report)
        self._reporter.report_step(report)
        commands = [*self._validate(report), *self._commands(requests, report)]
        # Before anything is saved, since a checkpoint of this step has its commands carried out:
        # the run that resumes from it never gets them again.
        self._keeper.sent(commands)
        self._preview(report, now=any(one.what == PREVIEW for one in requests))
        requested = any(one.what == CHECKPOINT for one in requests)
        if requested:
            self._keeper.record(CHECKPOINT, done)
        every = self._request.checkpoint_every
        if (requested or commands or (every and done % every == 0)) and self._keeper.save():
            self._reporter.report(done, checkpoint=True)
        return commands

    def _check(self, report: StepReport) -> None:
        """Stop a run that has gone wrong; report one that has run short of memory."""
        # On CUDA numbers arrive a step or more late, so this may be about an earlier step. The
        # parameters are still whole then: an update leaves out gradients that are not finite.
        complaint = self._keeper.numbers.complaint
        if complaint is not None:
            self._reporter.report(report.step + 1, trouble=complaint.sentence)
            self._keeper.stop(report.run, exploded=complaint.exploded)
            raise ValueError(f"{complaint.sentence} {self._keeper.whereabouts()}")
        if report.run.split and not self._was_split:
            sentence = (
                "Memory ran out: from here on images are computed one by one and blocks a "
                "second time, which takes longer and gives the same."
            )
            LOG.warning("%s", sentence)
            self._reporter.report(report.step + 1, trouble=sentence)
        self._was_split = report.run.split

    def _validate(self, report: StepReport) -> list[Command]:
        """The loss on held-out pictures where it is due, and what follows from its history."""
        held_out, data = self._request.validation, report.run.parts.held_out
        done = report.step + 1
        if held_out is None or data is None or done % held_out.config.every:
            return []
        config, history = held_out.config, self._keeper.validations
        losses = validate(report.run, data, config.draws)
        history.append({"step": done, "losses": losses})
        self._reporter.report(done, **{VALIDATION.key: losses})
        if config.keep_best and best_step(history) == done:
            self._keeper.record_best(report.run)
        commands: list[Command] = []
        for name in stalled(history, list(report.run.live), config.pivot_patience):
            commands.append(self._pivot(name, done, "its validation loss no longer falls"))
        if is_over(history, config.patience):
            commands.append(self._finish(done, "the validation loss no longer falls"))
        return commands

    def _commands(self, requests: Sequence[LiveRequest], report: StepReport) -> list[Command]:
        """What people requested of the loop; a concept that is frozen already is passed over."""
        commands: list[Command] = []
        for one in requests:
            if one.what == PIVOT and one.concept in report.run.live:
                commands.append(self._pivot(one.concept, report.step + 1, "asked for"))
            elif one.what == FINISH:
                commands.append(self._finish(report.step + 1, "asked for"))
        return commands

    def _pivot(self, concept: str, step: int, why: str) -> Pivot:
        self._keeper.record(PIVOT, step, concept=concept, why=why)
        self._reporter.report(step, event=PIVOT, concept=concept, why=why)
        return Pivot(concept)

    def _finish(self, step: int, why: str) -> Finish:
        self._keeper.record(FINISH, step, steps=self._request.config.steps, why=why)
        self._reporter.report(step, event=FINISH, why=why)
        return Finish()

    def _preview(self, report: StepReport, *, now: bool) -> None:
        previewer, done = self._previewer, report.step + 1
        if previewer is None or not (now or previewer.is_due(done)):
            return
        folder = self._keeper.folder
        try:
            previews = previewer.render(report.run, done, folder.previews, folder.disk)
        except RuntimeError as error:
            if not is_oom(error):
                raise
            self._previewer = None
            sentence = "There is not enough memory for previews: none are drawn from here on."
            LOG.warning("%s", sentence)
            self._reporter.report(done, trouble=sentence)
            return
        self._reporter.report(done, previews=previews)
