"""A file to which lines are only ever added, safe against a stop at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """One JSON object a line; each is on the disk before `add` returns.

    A line that was cut off by a crash is passed over, and the next one begins on a new line.
    """

    def __init__(self, path: Path):
        self.path = path

    def add(self, entry: dict[str, Any]) -> None:
        """Write one line through to the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        with open(self.path, "ab+") as file:
            if file.tell() and _lacks_end(self.path):
                line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def entries(self) -> Iterator[dict[str, Any]]:
        """All whole lines, the oldest first; none when there is no file."""
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


def _lacks_end(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
