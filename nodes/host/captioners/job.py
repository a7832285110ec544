"""A captioning in the host: progress, Cancel, the journal, and caption files."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
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
    captioned,
    question_digest,
)
from ....training.dataset.captioning.questions import Preset, preset_prompt
from ....training.dataset.facts import Store
from ....training.dataset.pictures.decode import open_small
from ....training.dataset.records import Dataset, Record, Transparency
from ....training.dataset.writing.write import CaptionFile, check_shared, plan_changes
from ..dataset.caption_files import caption_history, check_writable, remove_leftovers
from ..events import show_text
from ..folders import file_facts, sweep_caches, user_folder
from .clip import ClipCaptioner

PREVIEW_SIDE, MOST_SHOWN = 512, 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """The question about every picture."""

    preset: Preset
    prompt: str
    asking: Asking


@dataclass(frozen=True, kw_only=True, slots=True)
class Captioned:
    """The result of a captioning."""

    dataset: Dataset
    report: str
    """Counts, failures, and the first captions."""
    shown: tuple[Record, ...]
    """The pictures of those captions."""


def run_captioner(
    dataset: Dataset,
    captioner: Captioner | None,
    clip: CLIP | None,
    question: Question,
    order: Order,
    *,
    write: bool,
) -> Captioned:
    """Caption a dataset concept by concept, since the prompt names the concept."""
    if write:
        check_writable(dataset)
        check_shared([record for record in dataset.records if order.wants(record)])
        remove_leftovers(dataset)
    sweep_caches()
    model = chosen(captioner, clip)
    left = sum(map(order.wants, dataset.records))
    left = min(left, order.limit) if order.limit else left
    # One bar for all concepts, with previews.
    bar = comfy.utils.ProgressBar(max(left, 1))
    records: dict[str, Record] = {}
    captions: list[tuple[Record, str]] = []
    reports: list[str] = []
    with closing(file_facts()) as facts:
        for concept, class_word, part in _by_concept(dataset):
            if left:
                prompt = preset_prompt(question.preset, concept, class_word, question.prompt)
                asking = replace(question.asking, prompt=prompt)
                path = user_folder("captions") / f"{question_digest(model.identity, asking)}.jsonl"
                memory = Memory(Journal(path), lambda record: _seen(record, facts))
                run = _ConceptRun(order, write, bar)
                limited = replace(order, limit=left)
                part = run.follow(caption_dataset(part, model, asking, limited, memory))
                left -= run.total
                captions += run.captions
                reports.append(run.report(concept))
            records |= {record.name: record for record in part.records}
    if not reports:
        reports.append(
            f"No image was captioned: all {len(dataset.records)} have captions. Set on_existing to "
            "append, prepend or replace to change them."
        )
    if not getattr(model, "follows_instructions", True) and question.preset is not Preset.ANYTHING:
        reports.append("This model follows no instructions: presets and prompts change nothing.")
    reports += ["", *(f"{record.name}: {text}" for record, text in captions[:MOST_SHOWN])]
    return Captioned(
        dataset=dataset.with_records(lambda record: records[record.name]),
        report="\n".join(reports).rstrip(),
        shown=tuple(records[record.name] for record, _ in captions[:MOST_SHOWN]),
    )


def _seen(record: Record, facts: Store) -> str:
    """What a model sees of a picture: its file and, where it is transparent, its background."""
    content, kind = facts.content(record.path), record.transparency
    if "alpha" not in record.traits or kind in (Transparency.WHITE, Transparency.MASK):
        return content
    name = record.name if kind is Transparency.RANDOM else ""
    return f"{content} {kind.value} {name}".rstrip()


def _by_concept(dataset: Dataset) -> Iterator[tuple[str, str, Dataset]]:
    """(placeholder, class word, the dataset with the pictures of that concept alone)."""
    for key in dict.fromkeys((r.concept, r.class_word) for r in dataset.records):
        own = tuple(r for r in dataset.records if (r.concept, r.class_word) == key)
        yield *key, replace(dataset, records=own)


def chosen(captioner: Captioner | None, clip: CLIP | None) -> Captioner:
    """The captioner that is connected; ValueError for none or two, or a CLIP that cannot see."""
    if captioner is not None and clip is None:
        return captioner
    if clip is not None and captioner is None:
        return ClipCaptioner(clip)
    raise ValueError("Connect either a captioner or a clip that can see, such as Qwen3-VL.")


class _ConceptRun:
    """Follows the captioning of one concept: shows it, writes files, and reports."""

    def __init__(self, order: Order, write: bool, bar: Any):
        self._order, self._bar = order, bar
        self._history = caption_history() if write else None
        self._revision = self._history.revision() + 1 if self._history else 0
        self._started, self._count, self._last = time.monotonic(), 0, Progress(total=0)
        self._of_tables: list[Record] = []
        self.captions: list[tuple[Record, str]] = []
        """The first captions."""

    @property
    def total(self) -> int:
        """How many pictures the order wanted."""
        return self._last.total

    def follow(self, steps: Generator[Progress, None, Dataset]) -> Dataset:
        """Drive a captioning to its end. Cancel raises between two tokens; what is done is kept."""
        try:
            while True:
                try:
                    progress = next(steps)
                except StopIteration as end:
                    return end.value
                self._show(progress)
        finally:
            # A table is written as a whole, and its history keeps the whole: once, not per batch.
            self._write(self._of_tables)

    def _show(self, progress: Progress) -> None:
        self._last = progress
        self.captions += progress.fresh[: max(MOST_SHOWN - len(self.captions), 0)]
        mode = self._order.on_existing
        done = [captioned(record, text, mode) for record, text in progress.fresh]
        self._of_tables += [record for record in done if record.read_from and record.read_from.row]
        self._write([r for r in done if not (r.read_from and r.read_from.row)])
        preview = None
        if progress.fresh and progress.done > progress.reused:
            preview = ("JPEG", open_small(progress.fresh[-1][0], PREVIEW_SIDE), PREVIEW_SIDE)
        self._bar.update_absolute(self._bar.current + progress.done - self._count, preview=preview)
        self._count = progress.done
        show_text(self.report(""))

    def _write(self, records: Sequence[Record]) -> None:
        if self._history:
            changes = plan_changes(records, CaptionFile.AS_READ, self._order.on_existing)
            self._history.write(changes, self._revision)

    def report(self, concept: str) -> str:
        """Counts and speed, then one line for each picture that failed."""
        p, seconds = self._last, time.monotonic() - self._started
        new = p.done - p.reused - len(p.failed)
        lines = [
            (f"{concept}: " if concept else "")
            + f"{p.done} of {p.total} images, {new} captioned now"
            + (f" ({seconds / new:.2f} s each)" if new else "")
            + f", {p.reused} kept from before, {p.skipped} skipped, {len(p.failed)} failed"
        ]
        return "\n".join([*lines, *(f"{name}: {why}" for name, why in p.failed.items())])
