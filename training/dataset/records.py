"""A dataset before any pixel is read, and the settings for its crops and texts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from .facts import file_status


class Transparency(str, Enum):
    """What to show at transparent places of a picture, never the color that its file has there."""

    WHITE = "white"
    BLACK = "black"
    GRAY = "gray"
    CHECKER = "checker"
    RANDOM = "random color"
    MASK = "mask"
    """White, with the opacity as the mask of the loss."""


HUMAN = "human"


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in the upright picture, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class CaptionPlace:
    """Where a caption was read, and where it is written again."""

    path: Path
    """A text file, or a table."""
    row: str
    """What its row calls the picture; empty for a text file."""
    text: str
    """The caption as it was read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One picture of a dataset with its caption."""

    path: Path
    caption: str
    """Raw text; empty if there is none."""
    width: int
    """Pixels of the picture after its EXIF rotation."""
    height: int
    repeats: int = 1
    """How many times an epoch shows the picture."""
    key: str = ""
    """Path within the dataset, such as "10_dog/cat 1.png"; if empty, the file's name."""
    caption_source: str = ""
    """Where the caption comes from, such as ".txt" or "metadata.jsonl"; empty if there is none."""
    read_from: CaptionPlace | None = None
    """The file of the caption, also of one that was changed since; None if there was no file."""
    mask: Path | None = None
    """A picture whose brightness weighs the loss."""
    transparency: Transparency = Transparency.WHITE
    concept: str = ""
    """Placeholder of the concept that the picture shows."""
    class_word: str = ""
    """Class of the concept, such as dog."""
    kind: str = ""
    """Kind of the concept: person, character, object or style."""
    traits: frozenset[str] = frozenset()
    """Traits of the file, such as "alpha" or "rotated"."""
    flags: tuple[str, ...] = ()
    """Names of the findings of a check."""
    boxes: tuple[Box, ...] | None = None
    """Faces or other subjects that a detector found; None if none has run."""
    framing: Framing | None = None
    """How the picture is cropped; None for the settings of the run."""
    variation: Variation | None = None
    """How the caption varies while training."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats} for {self.path.name}: use at least 1.")

    @property
    def name(self) -> str:
        """The path within the dataset."""
        return self.key or self.path.name

    def with_variation(self, variation: Variation) -> Record:
        return replace(self, variation=variation)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Pictures in a fixed order, and a sentence for each file that was left out."""

    name: str
    # Without repr: the host puts the text of every input into its error messages.
    records: tuple[Record, ...] = field(repr=False)
    skipped: tuple[str, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    """A sentence for each oddity of a file that is used anyway."""

    def fingerprint(self) -> str:
        """Hex digest of everything that a run sees of the files; no picture is decoded."""
        return digest(_described(record) for record in self.records)

    def with_records(self, change: Callable[[Record], Record]) -> Dataset:
        return replace(self, records=tuple(change(record) for record in self.records))


def _described(record: Record) -> tuple[str | int, ...]:
    return (
        *file_stamp(record.path),
        record.caption,
        record.repeats,
        *(file_stamp(record.mask) if record.mask else ()),
        record.transparency.value,
        record.class_word,
        # The names of these classes and their fields are part of every run's digest.
        repr((record.boxes, record.framing, record.variation)),
    )


def file_stamp(path: Path) -> tuple[str, int, int]:
    """Changes when a file is edited: its name, size and date in nanoseconds."""
    status = file_status(path)
    return path.name, status.st_size, status.st_mtime_ns


def digest(items: Iterable[tuple[str | int, ...]]) -> str:
    """Hex SHA-256 of tuples in order."""
    total = hashlib.sha256()
    for item in items:
        total.update(repr(item).encode("utf-8", "surrogatepass") + b"\n")
    return total.hexdigest()


class Anchor(str, Enum):
    """What to keep if a picture does not fit its bucket."""

    CENTER = "center"
    TOP = "top"
    FACE = "face box"
    MASK = "mask box"
    RANDOM = "random"


class Template(str, Enum):
    """The sentences to put around a concept."""

    NONE = "none"
    OBJECT = "object"
    PERSON = "person"
    STYLE = "style"


class Lines(str, Enum):
    """What the lines of a caption mean."""

    ONE_TEXT = "one text"
    CHOICES = "a choice"
    """Each line is a caption, and one of them is drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """How a picture's caption varies each time the picture is shown."""

    texts: int = 8
    """Captions to draw for each picture before the run; each is encoded once."""
    prefix: str = ""
    suffix: str = ""
    shuffle_tags: bool = False
    keep_tags: int = 1
    """Tags at the start that stay in place; with "|||" in a caption, those before it."""
    tag_dropout: float = 0.0
    """Share of the tags to drop; tags that stay in place and placeholders are never dropped."""
    caption_dropout: float = 0.0
    """Share of the captions to replace by an empty one."""
    wildcards: bool = False
    """Draw one of the choices in {a|b|c}."""
    lines: Lines = Lines.ONE_TEXT
    capitals: float = 0.0
    """Share of the captions to put in lower case, or to start with a capital."""
    template: Template = Template.NONE
    """Sentences to put before the caption, or in place of an empty one."""
    template_share: float = 1.0
    """Share of the captions that use the template."""

    def __post_init__(self) -> None:
        if self.texts < 1:
            raise ValueError(f"texts is {self.texts}: use at least 1.")
        if self.keep_tags < 0:
            raise ValueError(f"keep_tags is {self.keep_tags}: use 0 or more.")
        for name in ("tag_dropout", "caption_dropout", "capitals", "template_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: use 0 to 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Framing:
    """The settings of Prepare Images."""

    resolution: int = 512
    """Side of a square with the area to which pictures are resized."""
    bucket_step: int = 64
    """Sides of buckets are multiples of this."""
    min_side: int = 0
    """Shortest side of a bucket; 0 is half the resolution."""
    max_side: int = 0
    """Longest side of a bucket; 0 is twice the resolution."""
    upscale: bool = True
    """Enlarge pictures that are smaller than their bucket instead of using a smaller bucket."""
    min_pictures: int = 1
    """Buckets with fewer pictures are merged into the nearest one."""
    anchor: Anchor = Anchor.CENTER
    views: int = 8
    """Crops of each picture for a random anchor; one is drawn each time it is shown."""
    mask_floor: float = 0.1
    """Weight of the loss where a mask is black."""

    def __post_init__(self) -> None:
        if self.bucket_step < 8 or self.bucket_step % 8:
            raise ValueError(f"bucket_step is {self.bucket_step}: use 8, 16, 32 or 64.")
        if self.resolution < self.bucket_step:
            raise ValueError(
                f"resolution is {self.resolution}: use at least the bucket step of "
                f"{self.bucket_step}."
            )
        for name in ("min_side", "max_side"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: use 0 (automatic) or more.")
        if self.max_side and max(self.min_side, self.bucket_step) > self.max_side:
            raise ValueError(
                f"max_side is {self.max_side}: use 0, or at least min_side and the bucket step."
            )
        for name in ("min_pictures", "views"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: use at least 1.")
        if not 0 <= self.mask_floor <= 1:
            raise ValueError(f"mask_floor is {self.mask_floor}: use 0 to 1.")


def listed(names: Sequence[str], most: int = 8, between: str = ", ") -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more
