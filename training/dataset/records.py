"""What is known of a dataset before a pixel is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from .captions.vary import Variation
from .framing import Framing


class Transparency(str, Enum):
    """What becomes of the transparent places of a picture; their hidden color is never seen."""

    WHITE = "white"
    BLACK = "black"
    GRAY = "gray"
    CHECKER = "checker"
    RANDOM = "random color"
    MASK = "mask"
    """White, and the transparency weighs the loss."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of the upright picture, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One picture of a dataset with its caption."""

    path: Path
    caption: str
    """Raw text, "" for none."""
    width: int
    """Pixels of the upright picture, after its EXIF rotation."""
    height: int
    repeats: int = 1
    """How often an epoch shows the picture."""
    key: str = ""
    """Its place in the dataset, such as "10_dog/cat 1.png"; empty means the file's name."""
    caption_source: str = ""
    """Where the caption is from, such as ".txt" or "metadata.jsonl"; empty for none."""
    mask: Path | None = None
    """Picture whose brightness says where the loss counts."""
    transparency: Transparency = Transparency.WHITE
    concept: str = ""
    """What the picture shows: the placeholder of its concept."""
    class_word: str = ""
    """What the concept is one of."""
    kind: str = ""
    """Person, character, object or style."""
    traits: frozenset[str] = frozenset()
    """What the file is like: "alpha", "animated", "rotated", "profile", "deep"."""
    flags: tuple[str, ...] = ()
    """Names of what a check found."""
    boxes: tuple[Box, ...] | None = None
    """Faces or other subjects that a detector found; None where none has looked."""
    framing: Framing | None = None
    """How the picture is cropped; None leaves it to the run."""
    variation: Variation | None = None
    """How the caption varies while training."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats} for {self.path.name}: use at least 1.")

    @property
    def name(self) -> str:
        """The place in the dataset, as people read it."""
        return self.key or self.path.name

    def with_variation(self, variation: Variation) -> Record:
        """The same picture with a caption that varies."""
        return replace(self, variation=variation)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Pictures in a fixed order, and a sentence for each file that was left out."""

    name: str
    # Without repr: the host puts the text of every input into its error messages.
    records: tuple[Record, ...] = field(repr=False)
    skipped: tuple[str, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    """A sentence for whatever was odd about files that are used all the same."""

    def fingerprint(self) -> str:
        """Hex digest of files and everything that a run sees of them; decodes no picture."""
        return digest(_described(record) for record in self.records)

    def with_records(self, change: Callable[[Record], Record]) -> Dataset:
        """The same dataset with each record changed."""
        return replace(self, records=tuple(change(record) for record in self.records))


def _described(record: Record) -> tuple[str | int, ...]:
    return (
        *file_stamp(record.path),
        record.caption,
        record.repeats,
        *(file_stamp(record.mask) if record.mask else ()),
        record.transparency.value,
        record.class_word,
        repr((record.boxes, record.framing, record.variation)),
    )


def file_stamp(path: Path) -> tuple[str, int, int]:
    """What changes when a file is edited: its name, bytes and date in nanoseconds."""
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns


def digest(items: Iterable[tuple[str | int, ...]]) -> str:
    """Hex SHA-256 over tuples, in their order."""
    total = hashlib.sha256()
    for item in items:
        total.update(repr(item).encode("utf-8", "surrogatepass") + b"\n")
    return total.hexdigest()
