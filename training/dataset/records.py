"""What is known of a dataset before a pixel is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


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

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats} for {self.path.name}: use at least 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Pictures in a fixed order, and a sentence for each file that was left out."""

    name: str
    # Without repr: the host puts the text of every input into its error messages.
    records: tuple[Record, ...] = field(repr=False)
    skipped: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Hex digest of file names, sizes and dates, captions and repeats; decodes no picture."""
        return digest(
            (*file_stamp(record.path), record.caption, record.repeats) for record in self.records
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
