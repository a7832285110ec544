"""Which files a run touches: what it opens to write, and what is on disk afterwards."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


class Writes:
    """Paths that this process opens to write; an audit hook is switched off, never taken out."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.on = True
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event == "open" and not isinstance(arguments[0], int):
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.paths.append(os.fsdecode(path))


def tree(folder: Path) -> set[Path]:
    """Everything in a folder, links not followed."""
    return {Path(at, name) for at, *names in os.walk(folder) for name in (*names[0], *names[1])}
