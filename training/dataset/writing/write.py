"""Captions written next to pictures: never by accident, never partly, and with undo."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from ....bundles.files.atomic import replace_text
from ....bundles.files.journal import Journal
from ..captions.tags import are_tags, merged_tags
from ..folder.names import same_name
from ..folder.tables import TABLES, match_rows, parse_table
from ..folder.text_files import decoded, read_text
from ..records import Record


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
    AS_READ = "the files they were read from"
    """A caption without a file goes to a .txt file."""


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

    @property
    def old(self) -> str:
        """The present text as a person reads it, whatever its encoding."""
        return decoded((self.before or "").encode("utf-8", "surrogateescape"))[0]


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
    """The changes that write captions into files; pictures without a caption change nothing.

    `mode` says what becomes of captions in the files. A caption that goes back where it was read is
    not added to what it was there, which is part of it already. Raises ValueError before the first
    change if two pictures would write different captions into one place.
    """
    described = [record for record in records if record.caption.strip()]
    places = _places(described, kind, _same_caption)
    for path, own in places.items():
        before = text_now(path)
        if path.suffix.lower() in TABLES:
            after = _rewritten(path, before or "", own, mode, read=kind is CaptionFile.AS_READ)
        else:
            after = _written(path, before, own[0], mode, read=kind is CaptionFile.AS_READ)
        if after != (before or ""):
            yield FileChange(path, before, after)


def read_before(records: Sequence[Record], kind: CaptionFile) -> list[Path]:
    """Files with other captions that a folder's reader takes before those that are written."""
    if kind is CaptionFile.AS_READ:
        return []
    order = [".txt", ".caption", ".jsonl", ".csv", ".json"]  # other extensions come first
    own = order.index(PurePath(TABLE_FILES.get(kind, f"a{kind.value}")).suffix)
    return [
        place.path
        for record in records
        if (place := record.read_from) is not None
        and place.path.suffix.lower() not in order[own:]
        and place.text not in ("", record.caption.strip())
    ]


def check_shared(records: Sequence[Record]) -> None:
    """Raise ValueError if two pictures would get their captions in one place."""
    _places(records, CaptionFile.AS_READ, lambda one, other: one.path == other.path)


def _same_caption(one: Record, other: Record) -> bool:
    return one.caption.strip() == other.caption.strip()


def _places(
    records: Sequence[Record], kind: CaptionFile, may_share: Callable[[Record, Record], bool]
) -> dict[Path, list[Record]]:
    """The files to write and the pictures whose captions go there, each place once."""
    folders = _Folders()
    places: dict[Path, list[Record]] = defaultdict(list)
    users: dict[tuple[Path, str], Record] = {}
    for record in records:
        path, row = folders.place(record, kind)
        other = users.setdefault((path, row), record)
        if other is record:
            places[path].append(record)
        elif not may_share(other, record):
            raise ValueError(_shared(path, other, record))
    return places


def _shared(path: Path, one: Record, other: Record) -> str:
    if one.path == other.path:
        return (
            f"{one.path.name} is in the dataset several times with different captions, but "
            f"{path.name} can hold only one: leave out the others first."
        )
    return (
        f"{one.path.name} and {other.path.name} would both write their captions into {path.name}: "
        "rename one of the two, or save the captions as metadata.jsonl."
    )


class _Folders:
    """The files of folders by their name in any case and form, as the reader finds them."""

    def __init__(self) -> None:
        self._files: dict[Path, dict[str, str]] = {}

    def place(self, record: Record, kind: CaptionFile) -> tuple[Path, str]:
        """The file of a picture's caption, and its row if it is a table."""
        read = record.read_from
        if kind is CaptionFile.AS_READ and read is not None:
            return read.path, read.row
        if kind in TABLE_FILES:
            path = self.find(record.path.with_name(TABLE_FILES[kind]))
            if read is not None and read.path == path:
                return path, read.row
            # kohya calls pictures by their stems.
            return path, record.path.stem if kind is CaptionFile.KOHYA else record.path.name
        ending = CaptionFile.TXT if kind is CaptionFile.AS_READ else kind
        return self.find(record.path.with_suffix(ending.value)), ""

    def find(self, path: Path) -> Path:
        """The file with this name, or the one that has it in another case or form."""
        if os.path.lexists(path):
            return path
        if path.parent not in self._files:
            names = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
            self._files[path.parent] = {same_name(name): name for name in names}
        return path.with_name(self._files[path.parent].get(same_name(path.name), path.name))


def _written(
    path: Path, before: str | None, record: Record, mode: OnExisting, *, read: bool
) -> str:
    """The text of a caption's file; the same text if the caption does not change."""
    old = "" if before is None else read_text(path)[0]
    new = _joined(old, record, path, mode, read=read)
    return (before or "") if new == old else f"{new}\n"


def _joined(old: str, record: Record, path: Path, mode: OnExisting, *, read: bool) -> str:
    """The caption to write where there is an old one."""
    source = record.read_from
    if mode is OnExisting.SKIP or not read or source is None:
        return joined(old, record.caption, mode)
    if source.path == path and source.text == old:
        return record.caption.strip()
    return joined(old, record.caption, mode)


def _rewritten(
    path: Path, before: str, records: Sequence[Record], mode: OnExisting, *, read: bool
) -> str:
    """The table with the captions; the same text if no caption changes."""
    try:
        table = parse_table(path, _as_read(before))
    except ValueError as error:
        raise ValueError(_unwritable(path, str(error))) from error
    if table.unsafe:
        raise ValueError(_unwritable(path, table.unsafe))
    rows = match_rows(table, [record.path for record in records], path.parent).rows
    names = {name: place for place, name in enumerate(table.names)}
    changed = False
    for record in records:
        source = record.read_from
        place = rows.get(record.path)
        if source is not None and source.path == path:
            place = names.get(source.row, place)
        old = "" if place is None else table.caption(place)
        new = _joined(old, record, path, mode, read=read)
        if new != old:
            table.put(place, record.path.relative_to(path.parent).as_posix(), new)
            changed = True
    return table.text() if changed else before


def _as_read(before: str) -> str:
    """A table's text as its reader has it; one in another encoding is written as UTF-8."""
    try:
        before.encode()
    except UnicodeEncodeError:  # its bytes are not UTF-8
        return decoded(before.encode("utf-8", "surrogateescape"))[0]
    return decoded(before.encode())[0] if "\0" in before else before


def _unwritable(path: Path, why: str) -> str:
    return (
        f"{path.name} cannot be written, since {why}: correct it, or choose another format. "
        "Nothing was written."
    )


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

    def undo(
        self, revision: int, is_allowed: Callable[[Path], bool] = lambda path: True
    ) -> list[str]:
        """Restore files to before a revision; returns a sentence for each that is left unchanged.

        Those were changed since, are in another place than when they were written, or are not
        `is_allowed` any more. The undo is a revision of its own.
        """
        entries = [entry for entry in self._entries() if entry["revision"] == revision]
        if not entries:
            raise ValueError(f"There is no revision {revision}: the latest is {self.revision()}.")
        first: dict[str, Any] = {}
        last: dict[str, Any] = {}
        folders = {entry["path"]: entry.get("folder") for entry in entries}
        for entry in entries:
            first.setdefault(entry["path"], entry["before"])
            last[entry["path"]] = entry["after"]
        number, refused = self.revision() + 1, list[str]()
        for name, before in first.items():
            path = Path(name)
            if not is_allowed(path) or is_elsewhere(path, folders.get(name)):
                refused.append(f"{path.name} is in another place now and is left unchanged.")
                continue
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
                "folder": os.path.realpath(change.path.parent),
                "before": change.before,
                "after": change.after,
            }
        )
        if change.after is None:
            change.path.unlink()
        else:
            replace_text(change.path, change.after)


def is_elsewhere(path: Path, folder: object = None) -> bool:
    """Whether a name leads to another file by now: a link, a device, or its folder was exchanged.

    `folder` is the real path of its folder at the time when it was written, if that is known.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return True
    return isinstance(folder, str) and os.path.realpath(path.parent) != folder


def text_now(path: Path) -> str | None:
    """A file's text, from which its exact bytes can be restored; None if there is no file.

    Raises ValueError for a link, a device or a pipe, which may lead anywhere.
    """
    if is_elsewhere(path):
        raise ValueError(
            f"{path.name} is a link or no file, and captions are not written through it: delete it."
        )
    return path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else None
