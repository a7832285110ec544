"""Captions written next to pictures: never by accident, never partly, and with undo."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from ....bundles.files.atomic import replace_text
from ....bundles.files.journal import Journal
from ..captions.tags import are_tags, merged_tags
from ..folder.sidecars import read_text
from ..records import Record
from .tables import Csv, JsonLines, Kohya, Table


class OnExisting(str, Enum):
    """What happens to a caption that exists already."""

    SKIP = "skip"
    APPEND = "append"
    PREPEND = "prepend"
    REPLACE = "replace"


class CaptionFile(str, Enum):
    """The files that captions are written to."""

    TXT = ".txt"
    CAPTION = ".caption"
    JSONL = "metadata.jsonl"
    CSV = "metadata.csv"
    KOHYA = "kohya meta.json"


TABLE_FILES = {
    CaptionFile.JSONL: "metadata.jsonl",
    CaptionFile.CSV: "metadata.csv",
    CaptionFile.KOHYA: "meta.json",
}


@dataclass(frozen=True, slots=True)
class FileChange:
    """A change of a file, from its present text, None for no file, to a new text."""

    path: Path
    before: str | None
    after: str | None
    """None deletes the file."""


def joined(old: str, new: str, mode: OnExisting) -> str:
    """Both texts combined; a part that is there already is not added again.

    Of two lists of tags, each tag is added that the first has in no spelling.
    """
    old, new = old.strip(), new.strip()
    if not old or not new or mode is OnExisting.REPLACE:
        return new or old
    if mode is OnExisting.SKIP:
        return old
    if are_tags(old, new):
        return merged_tags(old, new) if mode is OnExisting.APPEND else merged_tags(new, old)
    if mode is OnExisting.APPEND:
        return old if old.endswith(new) else f"{old}, {new}"
    return old if old.startswith(new) else f"{new}, {old}"


def plan_changes(
    records: Sequence[Record], kind: CaptionFile, mode: OnExisting
) -> Iterator[FileChange]:
    """The changes that write captions into files; pictures without a caption change nothing."""
    described = [record for record in records if record.caption.strip()]
    if kind in TABLE_FILES:
        yield from _plan_tables(described, kind, mode)
        return
    for record in described:
        path = record.path.with_suffix(kind.value)
        old = read_text(path)[0] if path.exists() else ""
        after = joined(old, record.caption, mode)
        if after != old:
            yield FileChange(path, text_now(path), f"{after}\n")


def _plan_tables(
    records: Sequence[Record], kind: CaptionFile, mode: OnExisting
) -> Iterator[FileChange]:
    folders: dict[Path, list[Record]] = defaultdict(list)
    for record in records:
        folders[record.path.parent].append(record)
    for folder, own in folders.items():
        path = folder / TABLE_FILES[kind]
        before = text_now(path)
        after = _rewritten(before or "", own, kind, mode)
        if after != (before or ""):
            yield FileChange(path, before, after)


def _rewritten(before: str, records: Sequence[Record], kind: CaptionFile, mode: OnExisting) -> str:
    """The table with the captions; the same text if no caption changes."""
    table, changed = TABLES[kind](before), False
    for record in records:
        old = table.caption(record)
        new = joined(old, record.caption, mode)
        if new != old:
            table.put(record, new)
            changed = True
    return table.text() if changed else before


TABLES: dict[CaptionFile, Callable[[str], Table]] = {
    CaptionFile.JSONL: JsonLines,
    CaptionFile.CSV: Csv,
    CaptionFile.KOHYA: Kohya,
}


class CaptionHistory:
    """All changes that were made to caption files, with the text before each."""

    def __init__(self, path: Path):
        self.journal = Journal(path)

    def _entries(self) -> Iterator[dict[str, Any]]:
        """The lines that say which file was changed, and how."""
        for entry in self.journal.entries():
            if (
                isinstance(entry.get("revision"), int)
                and {"path", "before", "after"} <= entry.keys()
            ):
                yield entry

    def revision(self) -> int:
        """The number of the latest revision; 0 if there is none."""
        return max((entry["revision"] for entry in self._entries()), default=0)

    def write(self, changes: Iterable[FileChange], revision: int | None = None) -> int:
        """Make the changes one by one under one revision; returns how many.

        The old text is saved before a file is written. Raises FileExistsError for a file that has
        changed since the change was planned.
        """
        number, count = revision or self.revision() + 1, 0
        for change in changes:
            if text_now(change.path) != change.before:
                raise FileExistsError(
                    f"{change.path.name} was changed meanwhile and is left unchanged: run again."
                )
            self._make(number, change)
            count += 1
        return count

    def undo(self, revision: int) -> list[str]:
        """Restore files to before a revision; returns a sentence for each that was changed since.

        Those files are left unchanged. The undo is a revision of its own.
        """
        entries = [entry for entry in self._entries() if entry["revision"] == revision]
        if not entries:
            raise ValueError(f"There is no revision {revision}: the latest is {self.revision()}.")
        first: dict[str, Any] = {}
        last: dict[str, Any] = {}
        for entry in entries:
            first.setdefault(entry["path"], entry["before"])
            last[entry["path"]] = entry["after"]
        number, refused = self.revision() + 1, list[str]()
        for name, before in first.items():
            path = Path(name)
            if text_now(path) == before:
                continue
            if text_now(path) != last[name]:
                refused.append(f"{path.name} was changed since and is left unchanged.")
                continue
            self._make(number, FileChange(path, last[name], before))
        return refused

    def _make(self, revision: int, change: FileChange) -> None:
        self.journal.add(
            {
                "revision": revision,
                "time": time.time(),
                "path": str(change.path),
                "before": change.before,
                "after": change.after,
            }
        )
        if change.after is None:
            change.path.unlink()
        else:
            replace_text(change.path, change.after)


def text_now(path: Path) -> str | None:
    """A file's text, from which its exact bytes can be restored; None if there is no file."""
    return path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else None
