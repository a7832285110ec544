"""Captions from a model, each saved before the next batch, so that none is lost."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from PIL import Image

from ....bundles.files.journal import Journal
from ..captions.label import Kind, Label, named_caption
from ..captions.placeholders import placeholder_pattern
from ..captions.refusals import problem, tidied
from ..pictures.decode import open_small
from ..records import HUMAN, Dataset, Record
from ..writing.write import OnExisting, joined

RETRY_TEMPERATURE = 0.7
STAND_INS = frozenset({"template", "default", "folder"})
"""Sources of captions that nobody wrote for the image: a sentence, a setting, a folder's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """The question to a model, the same for all pictures."""

    prompt: str = ""
    max_side: int = 768
    """Longer side, in pixels, of the pictures that the model sees."""
    max_tokens: int = 128
    temperature: float = 0.0
    """At 0, the most likely token is always taken, so a picture always gets the same caption."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("max_side", 64), ("max_tokens", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: use at least {least}.")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature is {self.temperature}: use 0 to 2.")


class Captioner(Protocol):
    """A model that describes pictures."""

    @property
    def identity(self) -> str:
        """Identifies the model; captions of another one are not reused."""
        ...

    def caption(
        self, pictures: Sequence[Image.Image], asking: Asking, seeds: Sequence[int]
    ) -> list[str]:
        """An answer for each picture; raises ValueError if one of them is not possible."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Which pictures to caption, and what happens to existing captions."""

    batch_size: int = 4
    on_existing: OnExisting = OnExisting.SKIP
    limit: int = 0
    """Only the first pictures, to try a prompt; 0 for all of them."""
    touch_human: bool = False
    """Also change captions that a person edited."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: use at least 1.")
        if self.limit < 0:
            raise ValueError(f"limit is {self.limit}: use 0 (all) or more.")

    def wants(self, record: Record) -> bool:
        if not record.caption.strip() or record.caption_source in STAND_INS:
            return True
        if record.caption_source == HUMAN and not self.touch_human:
            return False
        return self.on_existing is not OnExisting.SKIP


@dataclass(slots=True)
class Progress:
    """The progress of a captioning."""

    total: int
    done: int = 0
    reused: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict[str, str])
    """Reasons by name of the picture."""
    fresh: list[tuple[Record, str]] = field(default_factory=list[tuple[Record, str]])
    """Captions since the last report, including those from earlier runs."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Captions of earlier runs by content of the picture, one file per model and question."""

    journal: Journal
    content: Callable[[Record], str]

    def known(self) -> dict[str, str]:
        """The latest caption for each content, without answers that count as none by now."""
        return {
            str(entry["picture"]): str(entry["caption"])
            for entry in self.journal.entries()
            if entry.get("picture") and not problem(str(entry.get("caption") or ""))
        }

    def keep(self, record: Record, content: str, caption: str, model: str, asking: Asking) -> None:
        """Save the caption of a picture that had this content when the model saw it."""
        if not self.has(record, content):
            return
        entry: dict[str, Any] = {"picture": content, "caption": caption}
        entry |= {"name": record.name, "model": model, "time": time.time(), **asdict(asking)}
        self.journal.add(entry)

    def has(self, record: Record, content: str) -> bool:
        """Whether a picture has this content now."""
        try:
            return self.content(record) == content
        except ValueError:
            return False


def question_digest(model: str, asking: Asking) -> str:
    """The name of the file for one model and question."""
    text = repr((model, asdict(asking)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def caption_dataset(
    dataset: Dataset, captioner: Captioner, asking: Asking, order: Order, memory: Memory
) -> Generator[Progress, None, Dataset]:
    """Caption the pictures of an order; yields after every batch and returns the new dataset.

    Captions are saved before the next batch, so a second call continues after any interruption.
    Refusals and errors become reasons in `failed`, never captions.
    """
    wanted = [record for record in dataset.records if order.wants(record)]
    wanted = wanted[: order.limit] if order.limit else wanted
    earlier = memory.known()
    progress = Progress(total=len(wanted), skipped=len(dataset.records) - len(wanted))
    captions: dict[str, str] = {}
    missing: list[Record] = []
    contents: dict[str, str] = {}
    for record in wanted:
        try:
            contents[record.name] = memory.content(record)
        except ValueError as error:
            progress.failed[record.name] = str(error)
            progress.done += 1
            continue
        caption = earlier.get(contents[record.name])
        if caption is None:
            missing.append(record)
        else:
            progress.fresh.append((record, caption))
            progress.reused += 1
            progress.done += 1
    captions |= {record.name: caption for record, caption in progress.fresh}
    yield progress
    for start in range(0, len(missing), order.batch_size):
        chunk = missing[start : start + order.batch_size]
        progress.fresh = _answers(chunk, captioner, asking, progress.failed)
        for record, caption in progress.fresh:
            memory.keep(record, contents[record.name], caption, captioner.identity, asking)
            captions[record.name] = caption
        progress.done += len(chunk)
        yield progress
    return dataset.with_records(
        lambda record: captioned(record, captions.get(record.name), order.on_existing)
    )


def captioned(record: Record, caption: str | None, mode: OnExisting) -> Record:
    """A picture with a model's caption beside or in place of its own; None changes nothing."""
    if caption is None:
        return record
    old = "" if record.caption_source in STAND_INS else record.caption
    text = joined(old, named_like(record, caption), mode)
    return replace(record, caption=text, caption_source="model")


def named_like(record: Record, caption: str) -> str:
    """A new caption with the placeholder, if it takes the place of words that Label Dataset wrote.

    They were there to name the concept, which the new caption has to do as well.
    """
    if record.caption_source not in STAND_INS or not record.kind:
        return caption
    if placeholder_pattern([record.concept]).search(record.caption) is None:
        return caption
    kind = Kind(record.kind)
    label = Label(placeholder=record.concept, class_word=record.class_word, kind=kind)
    return named_caption(caption, label)


def _answers(
    chunk: Sequence[Record], captioner: Captioner, asking: Asking, failed: dict[str, str]
) -> list[tuple[Record, str]]:
    """Good captions; bad ones are asked for once more, at a temperature that varies the words."""
    opened = _opened(chunk, asking, failed)
    answers = _ask(opened, captioner, asking, failed)
    bad = [record for record, text in answers if problem(text)]
    if bad and asking.temperature < RETRY_TEMPERATURE:
        again = replace(asking, temperature=RETRY_TEMPERATURE)
        pairs = [(record, picture) for record, picture in opened if record in bad]
        answers = [row for row in answers if row[0] not in bad]
        answers += _ask(pairs, captioner, again, failed)
    good: list[tuple[Record, str]] = []
    for record, text in answers:
        reason = problem(text)
        if reason:
            failed[record.name] = f"{reason}: {text[:80]}" if text else reason
        else:
            good.append((record, text))
    return good


def _opened(
    chunk: Sequence[Record], asking: Asking, failed: dict[str, str]
) -> list[tuple[Record, Image.Image]]:
    pairs: list[tuple[Record, Image.Image]] = []
    for record in chunk:
        try:
            pairs.append((record, open_small(record, asking.max_side)))
        except ValueError as error:
            failed[record.name] = str(error)
    return pairs


def _ask(
    pairs: Sequence[tuple[Record, Image.Image]],
    captioner: Captioner,
    asking: Asking,
    failed: dict[str, str],
) -> list[tuple[Record, str]]:
    """The answers for a batch; if the batch fails, ask about each picture alone."""
    if not pairs:
        return []
    # Each picture has its own seed, so a resumed run draws what the first would have drawn.
    # Names of files may be no UTF-8; a seed of text and one of its bytes are the same.
    keys = [f"{asking.seed} {record.name}".encode("utf-8", "surrogatepass") for record, _ in pairs]
    seeds = [random.Random(key).getrandbits(32) for key in keys]
    try:
        texts = captioner.caption([picture for _, picture in pairs], asking, seeds)
    except ValueError as error:
        if len(pairs) == 1:
            failed[pairs[0][0].name] = str(error) or "the model failed without giving a reason"
            return []
        return [row for pair in pairs for row in _ask([pair], captioner, asking, failed)]
    return [(record, tidied(text)) for (record, _), text in zip(pairs, texts, strict=True)]
