"""A dataset before any pixel is read, and the settings for its crops and texts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path


class Transparency(str, Enum):
    """What becomes of the transparent places of a picture; their hidden color is never seen."""

    WHITE = "white"
    BLACK = "black"
    GRAY = "gray"
    CHECKER = "checker"
    RANDOM = "random color"
    MASK = "mask"
    """White, and the transparency weighs the loss."""


HUMAN = "human"


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


class Anchor(str, Enum):
    """What a crop keeps when a picture does not fit its bucket."""

    CENTER = "center"
    TOP = "top"
    FACE = "face box"
    MASK = "mask box"
    RANDOM = "random"


class Template(str, Enum):
    """Which sentences are put around a concept."""

    NONE = "none"
    OBJECT = "object"
    PERSON = "person"
    STYLE = "style"


class Lines(str, Enum):
    """What the lines of a caption are."""

    ONE_TEXT = "one text"
    CHOICES = "a choice"
    """Each line is a caption of its own and one of them is drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """How the text of a picture changes from one time that it is shown to the next."""

    texts: int = 8
    """Captions drawn for each picture before the run; they are all encoded once."""
    prefix: str = ""
    suffix: str = ""
    shuffle_tags: bool = False
    keep_tags: int = 1
    """Tags at the beginning that stay in place; all before a "|||" do where there is one."""
    tag_dropout: float = 0.0
    """Share of the tags that are left out; kept tags and placeholders never are."""
    caption_dropout: float = 0.0
    """Share of the texts that are empty."""
    wildcards: bool = False
    """Draw one of a|b|c in braces."""
    lines: Lines = Lines.ONE_TEXT
    capitals: float = 0.0
    """Share of the texts with other capitals: all lower case, or the first letter large."""
    template: Template = Template.NONE
    """Sentences put around, or in place of, the caption."""
    template_share: float = 1.0
    """Share of the texts that use the template."""

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
    """Side of a square of the area that pictures are brought to."""
    bucket_step: int = 64
    """Sides of buckets are multiples of it."""
    min_side: int = 0
    """Shortest side of a bucket; 0 is half the resolution."""
    max_side: int = 0
    """Longest side of a bucket; 0 is twice the resolution."""
    upscale: bool = True
    """Enlarge pictures that are smaller than their bucket, rather than make a smaller bucket."""
    min_pictures: int = 1
    """Buckets with fewer pictures are merged into the nearest one."""
    anchor: Anchor = Anchor.CENTER
    views: int = 8
    """With the anchor random: crops of each picture, one of them drawn each time it is shown."""
    mask_floor: float = 0.1
    """What the loss still counts for where a mask is black."""

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
