"""What happens after each step of a run: it is counted, told, tested, drawn and kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ....training.commands import Command, Finish, Pivot
from ....training.loop import StepReport
from ....training.series import VALIDATION
from ....training.validation import best_step, is_over, stalled, validate
from ..versions import is_oom
from .keeper import KEPT, Keeper
from .live import CHECKPOINT, FINISH, PIVOT, PREVIEW, Ask, LiveRun
from .previews import Previewer
from .reporter import Reporter
from .request import Request

LOG = logging.getLogger(__name__)


class Watch:
    """Sees each report and answers with what the loop is to do before its next step."""

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
        with self._keeper:
            self._reporter.close(self._last)

    def see(self, report: StepReport) -> list[Command]:
        """Everything that follows from a step, in this order."""
        self._last, asked, done = report, self._live.take(), report.step + 1
        self._keeper.take(report)
        self._check(report)
        self._reporter.tell(report)
        commands = [*self._validate(report), *self._obey(asked, report)]
        self._keeper.sent(commands)
        self._draw(report, now=any(ask.what == PREVIEW for ask in asked))
        wanted = any(ask.what == CHECKPOINT for ask in asked)
        if wanted:
            self._keeper.record(KEPT, done)
        every = self._request.checkpoint_every
        if (wanted or commands or (every and done % every == 0)) and self._keeper.save():
            self._reporter.note(done, checkpoint=True)
        return commands

    def _check(self, report: StepReport) -> None:
        """Stop a run that has gone wrong; note one that has run short of memory."""
        complaint = self._keeper.numbers.complaint
        if complaint is not None:
            self._reporter.note(report.step + 1, trouble=complaint.sentence)
            self._keeper.stop(report.run, exploded=complaint.exploded)
            raise ValueError(f"{complaint.sentence} {self._keeper.whereabouts()}")
        if report.run.split and not self._was_split:
            sentence = (
                "Memory ran out: from here on pictures are computed one by one and blocks a "
                "second time, which takes longer and gives the same."
            )
            LOG.warning("%s", sentence)
            self._reporter.note(report.step + 1, trouble=sentence)
        self._was_split = report.run.split

    def _validate(self, report: StepReport) -> list[Command]:
        """The loss on held-out pictures where it is due, and what follows from its course."""
        wanted, data, done = self._request.validation, report.run.parts.held_out, report.step + 1
        if wanted is None or data is None or done % wanted.config.every:
            return []
        losses = validate(report.run, data, wanted.config.draws)
        history = self._keeper.validations
        history.append({"step": done, "losses": losses})
        self._reporter.note(done, **{VALIDATION.key: losses})
        if wanted.config.keep_best and best_step(history) == done:
            self._keeper.keep_best(report.run)
        commands: list[Command] = []
        for name in stalled(history, list(report.run.live), wanted.config.pivot_patience):
            commands.append(self._pivot(name, done, "its validation loss no longer falls"))
        if is_over(history, wanted.config.patience):
            commands.append(self._finish(done, "the validation loss no longer falls"))
        return commands

    def _obey(self, asked: Sequence[Ask], report: StepReport) -> list[Command]:
        commands: list[Command] = []
        for ask in asked:
            if ask.what == PIVOT and ask.concept in report.run.live:
                commands.append(self._pivot(ask.concept, report.step + 1, "asked for"))
            elif ask.what == FINISH:
                commands.append(self._finish(report.step + 1, "asked for"))
        return commands

    def _pivot(self, concept: str, step: int, why: str) -> Pivot:
        self._keeper.record(PIVOT, step, concept=concept, why=why)
        self._reporter.note(step, event=PIVOT, concept=concept, why=why)
        return Pivot(concept)

    def _finish(self, step: int, why: str) -> Finish:
        self._keeper.record(FINISH, step, steps=self._request.config.steps, why=why)
        self._reporter.note(step, event=FINISH, why=why)
        return Finish()

    def _draw(self, report: StepReport, *, now: bool) -> None:
        drawer, done = self._previewer, report.step + 1
        if drawer is None or not (now or drawer.is_due(done)):
            return
        folder = self._keeper.folder
        try:
            pictures = drawer.draw(report.run, done, folder.previews, folder.disk)
        except RuntimeError as error:
            if not is_oom(error):
                raise
            self._previewer = None
            sentence = "There is not enough memory for previews: none are drawn from here on."
            LOG.warning("%s", sentence)
            self._reporter.note(done, trouble=sentence)
            return
        self._reporter.note(done, previews=pictures)
