"""Text files that hold the old or the new text whole; what a killed process leaves is removed."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed anyway
    fcntl = None

ENDING = ".pivotal-part"
OLD = 24 * 3600.0
"""Seconds after which a draft is abandoned where files cannot be locked."""


def replace_file(path: Path, text: str) -> None:
    """Write UTF-8 text without byte-order mark so that the path holds the old or the new whole.

    The draft beside it is locked until it has the path's name, which tells `remove_drafts` that
    somebody is at it.
    """
    draft, file = _new_draft(path.parent)
    try:
        with file:
            file.write(text.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:
                os.replace(draft, path)
        if fcntl is None:
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _new_draft(folder: Path) -> tuple[Path, BinaryIO]:
    """An empty, locked file under a name that nobody else has."""
    while True:
        draft = folder / f".{secrets.token_hex(8)}{ENDING}"
        file = open(draft, "xb")  # noqa: SIM115 - the caller closes it
        if fcntl is None:
            return draft, file
        with suppress(OSError):  # a file system without locks: a draft's age decides there
            fcntl.flock(file, fcntl.LOCK_EX)
        # It may have been taken for abandoned before it was locked.
        if os.fstat(file.fileno()).st_nlink:
            return draft, file
        file.close()


def remove_drafts(folders: Iterable[Path]) -> int:
    """Remove drafts that no living process writes; return how many.

    Only files that bear a draft's name are looked at, and neither links nor folders among them.
    What cannot be listed, opened or removed stays.
    """
    count = 0
    for folder in dict.fromkeys(folders):
        with suppress(OSError), os.scandir(folder) as entries:
            found = [Path(e.path) for e in entries if _is_draft(e)]
            count += sum(_removed(path) for path in found)
    return count


def _is_draft(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    named = name.startswith(".") and name.endswith(ENDING) and len(name) > len(ENDING) + 1
    return named and entry.is_file(follow_symlinks=False)


def _removed(draft: Path) -> bool:
    try:
        with open(draft, "rb+") as file:
            if not _is_free(file):
                return False
            if fcntl is not None:
                draft.unlink()
                return True
        draft.unlink()
    except OSError:
        return False
    return True


def _is_free(file: BinaryIO) -> bool:
    """Whether no process holds the lock; without locks, whether it is a day old."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError:
            pass
    return time.time() - os.fstat(file.fileno()).st_mtime > OLD
