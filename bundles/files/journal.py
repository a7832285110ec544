"""A file that only ever grows by whole lines, safe against a stop at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .atomic import replace_file, sync_folder
from .foreign import NotPlain, open_plain, parse_object


class Journal:
    """One JSON object per line.

    A line that a crash cut off is skipped, and the next one begins on a new line. So is one longer
    than `longest` bytes, where nobody writes such lines. A link is neither read nor written
    through.
    """

    def __init__(self, path: Path, *, longest: int = -1):
        self.path, self.longest = path, longest

    def add(self, entry: dict[str, Any], *, sync: bool = True) -> None:
        """Append one line.

        It is on the disk on return unless `sync` is off: then it survives a killed process, but
        possibly not a power failure.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = _line(entry)
        with open_plain(self.path, "ab+") as file:
            size = file.tell()
            if size:
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if sync and not size:
            sync_folder(self.path.parent)

    def entries(self) -> Iterator[dict[str, Any]]:
        """All whole lines, the oldest first; none if there is no file."""
        try:
            file = open_plain(self.path, "rb")
        except (FileNotFoundError, NotPlain):
            return
        with file:
            for line in _lines(file, self.longest):
                entry = parse_object(line)
                if entry is not None:
                    yield entry

    def rewrite(self, entries: Iterable[dict[str, Any]]) -> None:
        """Replace the content, cut lines included, by these lines; a missing file stays missing."""
        content = b"".join(map(_line, entries))
        try:
            with open_plain(self.path, "rb") as file:
                before = file.read()
        except FileNotFoundError:
            return
        if content != before:
            replace_file(self.path, lambda draft: draft.write_bytes(content))


def _lines(file: BinaryIO, longest: int) -> Iterator[bytes]:
    """The lines of a file, without those of more bytes than `longest`; -1 for any length."""
    whole = True
    while line := file.readline(longest):
        ends = line.endswith(b"\n") or len(line) != longest
        if whole and ends:
            yield line
        whole = ends


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
