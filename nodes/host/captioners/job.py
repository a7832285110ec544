"""A captioning in the host: progress, Cancel, the journal, and files as they come."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import comfy.utils
from comfy.sd import CLIP

from ....bundles.files.journal import Journal
from ....training.dataset.captioning.ask import (
    Asking,
    Captioner,
    Memory,
    Order,
    Progress,
    caption_dataset,
    question_digest,
)
from ....training.dataset.captioning.questions import Preset, preset_prompt
from ....training.dataset.pictures.decode import open_small
from ....training.dataset.records import Dataset, Record
from ....training.dataset.writing.write import CaptionFile, plan_changes
from ..dataset.caption_files import check_writable, history, tidy
from ..events import show_text
from ..folders import file_facts, user_folder
from .clip import ClipCaptioner

PREVIEW, SHOWN = 512, 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is asked about every picture."""

    preset: Preset
    prompt: str
    asking: Asking


@dataclass(frozen=True, kw_only=True, slots=True)
class Captioned:
    """What came of a captioning."""

    dataset: Dataset
    report: str
    """Counts, what failed, and the first captions"""
    shown: tuple[Record, ...]
    """Pictures of those captions"""


def run_captioner(
    dataset: Dataset,
    captioner: Captioner | None,
    clip: CLIP | None,
    question: Question,
    order: Order,
    *,
    write: bool,
) -> Captioned:
    """Caption a dataset, concept by concept; the report names what failed."""
    if write:
        check_writable(dataset)
        tidy(dataset)
    model = chosen(captioner, clip)
    facts, reports = file_facts(), list[str]()
    # One bar for all: concepts differ in what they are called.
    left = sum(map(order.wants, dataset.records))
    left = min(left, order.limit) if order.limit else left
    bar = comfy.utils.ProgressBar(max(left, 1))
    made: dict[str, Record] = {}
    described: list[tuple[Record, str]] = []
    try:
        for concept, class_word in dict.fromkeys(
            (r.concept, r.class_word) for r in dataset.records
        ):
            part = replace(
                dataset,
                records=tuple(
                    r for r in dataset.records if (r.concept, r.class_word) == (concept, class_word)
                ),
            )
            if not left:
                made |= {record.name: record for record in part.records}
                continue
            prompt = preset_prompt(question.preset, concept, class_word, question.prompt)
            asking = replace(question.asking, prompt=prompt)
            path = user_folder("captions") / f"{question_digest(model.identity, asking)}.jsonl"
            memory = Memory(Journal(path), lambda record: facts.content(record.path))
            run = _Run(order, write, bar)
            steps = caption_dataset(part, model, asking, replace(order, limit=left), memory)
            captioned = run.follow(steps)
            left -= run.total
            made |= {record.name: record for record in captioned.records}
            described += run.described
            reports.append(run.report(concept))
    finally:
        facts.close()
    if not getattr(model, "follows_instructions", True) and question.preset is not Preset.ANYTHING:
        reports.append("This model follows no instructions: presets and prompts change nothing.")
    reports += ["", *(f"{record.name}: {text}" for record, text in described[:SHOWN])]
    return Captioned(
        dataset=dataset.with_records(lambda record: made[record.name]),
        report="\n".join(reports).rstrip(),
        shown=tuple(made[record.name] for record, _ in described[:SHOWN]),
    )


def chosen(captioner: Captioner | None, clip: CLIP | None) -> Captioner:
    """The one that is connected; ValueError for none or both, or a CLIP that cannot see."""
    if (captioner is None) == (clip is None):
        raise ValueError("Connect either a captioner or a clip that can see, such as Qwen3-VL.")
    return ClipCaptioner(clip) if captioner is None else captioner


class _Run:
    """Follows one captioning: shows it, writes files as captions come, sums it up."""

    def __init__(self, order: Order, write: bool, bar: Any):
        self._order, self._bar = order, bar
        self._history = history() if write else None
        self._revision = self._history.revision() + 1 if self._history else 0
        self._started, self._count, self._last = time.monotonic(), 0, Progress(total=0)
        self.described: list[tuple[Record, str]] = []

    @property
    def total(self) -> int:
        """How many pictures were asked for."""
        return self._last.total

    def follow(self, steps: Any) -> Dataset:
        """Drive it to its end; Cancel leaves between two tokens, with everything before kept."""
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                return end.value
            self._show(progress)

    def _show(self, progress: Progress) -> None:
        self._last = progress
        self.described += progress.fresh[: max(SHOWN - len(self.described), 0)]
        if self._history:
            described = [replace(record, caption=text) for record, text in progress.fresh]
            mode = self._order.on_existing
            self._history.write(plan_changes(described, CaptionFile.TXT, mode), self._revision)
        preview = None
        if progress.fresh and progress.done > progress.reused:
            preview = ("JPEG", open_small(progress.fresh[-1][0], PREVIEW), PREVIEW)
        self._bar.update_absolute(self._bar.current + progress.done - self._count, preview=preview)
        self._count = progress.done
        show_text(self.report(""))

    def report(self, concept: str) -> str:
        """Counts, the speed, and a line for every picture that failed."""
        p, seconds = self._last, time.monotonic() - self._started
        new = p.done - p.reused - len(p.failed)
        lines = [
            (f"{concept}: " if concept else "")
            + f"{p.done} of {p.total} pictures, {new} captioned now"
            + (f" ({seconds / new:.2f} s each)" if new else "")
            + f", {p.reused} kept from before, {p.skipped} skipped, {len(p.failed)} failed"
        ]
        return "\n".join([*lines, *(f"{name}: {why}" for name, why in p.failed.items())])
