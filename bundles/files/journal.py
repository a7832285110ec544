"""A file that only ever grows by whole lines, safe against a stop at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .atomic import replace_file, sync_folder


class Journal:
    """One JSON object per line.

    A line that a crash cut off is skipped, and the next one begins on a new line.
    """

    def __init__(self, path: Path):
        self.path = path

    def add(self, entry: dict[str, Any], *, sync: bool = True) -> None:
        """Append one line.

        It is on the disk on return unless `sync` is off: then it survives a killed process, but
        possibly not a power failure.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = _line(entry)
        with open(self.path, "ab+") as file:
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
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            for line in file:
                try:
                    entry: Any = json.loads(line.decode("utf-8", "surrogatepass"))
                except ValueError:
                    continue
                if isinstance(entry, dict):
                    yield entry

    def rewrite(self, entries: Iterable[dict[str, Any]]) -> None:
        """Replace the content, cut lines included, by these lines; a missing file stays missing."""
        content = b"".join(map(_line, entries))
        if self.path.exists() and content != self.path.read_bytes():
            replace_file(self.path, lambda draft: draft.write_bytes(content))


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
