"""Facts about files, kept on disk until the files change."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

LOG = logging.getLogger(__name__)
NOT_SAVED = (
    "%s cannot be written (%s): make room or access there. Until then, files are read again."
)
TABLE = (
    "CREATE TABLE IF NOT EXISTS facts (kind TEXT, path TEXT, stamp TEXT, value TEXT, "
    "PRIMARY KEY (kind, path)) WITHOUT ROWID"
)


class Store:
    """Facts about files by kind and path, valid until the size or date of the file changes.

    A damaged database is moved away: every fact in it can be determined again.
    """

    def __init__(self, path: Path | None = None):
        self._path = path
        self._base = _open(path)
        # Buffered, since an open transaction would lock the database for everyone else.
        self._waiting: dict[tuple[str, str], tuple[str, str]] = {}

    def fact(
        self, kind: str, path: Path, determine: Callable[[], Any], fits: Callable[[Any], bool]
    ) -> Any:
        """A stored fact that `fits`, else what `determine` returns.

        That is stored, unless the file changed meanwhile: then it is a fact of neither version.
        """
        value = self.get(kind, path)
        if value is not None and fits(value):
            return value
        stamp = _stamp(path)
        value = determine()
        if stamp == _stamp(path) and fits(value):
            self.put(kind, path, value)
        return value

    def get(self, kind: str, path: Path) -> Any:
        """A fact as JSON values; None if it is unknown for the file as it is now."""
        name, stamp = _text(path), _stamp(path)
        if (kind, name) in self._waiting:
            old_stamp, value = self._waiting[kind, name]
            return json.loads(value) if old_stamp == stamp else None
        try:
            row = self._base.execute(
                "SELECT value FROM facts WHERE kind = ? AND path = ? AND stamp = ?",
                (kind, name, stamp),
            ).fetchone()
            return None if row is None else json.loads(row[0])
        except sqlite3.DatabaseError as error:
            self._replace_base(error)
        except (ValueError, TypeError):  # a value that is not JSON
            pass
        return None

    def put(self, kind: str, path: Path, value: Any) -> None:
        """Store a fact about the file as it is now."""
        self._waiting[kind, _text(path)] = _stamp(path), json.dumps(value)
        if len(self._waiting) >= 64:
            self.flush()

    def flush(self) -> None:
        try:
            self._write()
        except sqlite3.DatabaseError as error:
            self._replace_base(error)
            self._write()
        self._waiting.clear()

    def _write(self) -> None:
        rows = [(*place, *fact) for place, fact in self._waiting.items()]
        with self._base:
            self._base.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)", rows)

    def _replace_base(self, error: sqlite3.DatabaseError) -> None:
        """A full disk or a damaged file costs the facts so far, never the work that needs them."""
        if isinstance(error, sqlite3.ProgrammingError):  # a mistake in the code
            raise error
        with suppress(sqlite3.Error):
            self._base.close()
        if self._path is None or isinstance(error, sqlite3.OperationalError):
            LOG.warning(NOT_SAVED, self._path, error)
            self._base = _connect(":memory:")
        else:
            self._base = _anew(self._path, error)

    def close(self) -> None:
        """Write everything to the disk and close the database."""
        self.flush()
        self._base.close()

    def content(self, path: Path) -> str:
        """Hex SHA-256 of a file's bytes, which are read once for each version of the file."""
        return self.fact("content", path, lambda: content_digest(path), _is_digest)


def content_digest(path: Path) -> str:
    """Hex SHA-256 of a file's bytes; ValueError if it cannot be read."""
    total = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while part := file.read(1 << 20):
                total.update(part)
    except FileNotFoundError as error:
        raise ValueError(gone(path)) from error
    except OSError as error:
        raise ValueError(
            f"{path.name} cannot be read ({error.strerror or type(error).__name__}): make it "
            "readable, or remove it and read its folder again."
        ) from error
    return total.hexdigest()


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64


def _open(path: Path | None) -> sqlite3.Connection:
    if path is None:
        return _connect(":memory:")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _connect(str(path))
    except (OSError, sqlite3.OperationalError) as error:
        LOG.warning(NOT_SAVED, path, error)
        return _connect(":memory:")
    except sqlite3.DatabaseError as error:
        return _anew(path, error)


def _anew(path: Path, error: sqlite3.DatabaseError) -> sqlite3.Connection:
    """An empty database in the place of a damaged one, which is moved away."""
    broken = path.with_name(f"{path.name}.broken")
    LOG.warning("%s is damaged (%s) and was moved to %s.", path, error, broken.name)
    try:
        path.replace(broken)
        # The journal of a write that was cut off belongs to the old database.
        path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
        return _connect(str(path))
    except (OSError, sqlite3.DatabaseError) as again:
        LOG.warning(NOT_SAVED, path, again)
        return _connect(":memory:")


def _connect(name: str) -> sqlite3.Connection:
    # The host runs nodes and routes in different threads, one at a time.
    base = sqlite3.connect(name, timeout=30.0, check_same_thread=False)
    base.execute(TABLE)
    return base


def _text(path: Path) -> str:
    return str(path.absolute()).encode("utf-8", "surrogateescape").hex()


def gone(path: Path) -> str:
    """The sentence about an image, caption or mask that somebody removed."""
    return (
        f"{path.name} is gone since its folder was read: put it back, or read the folder again to "
        "do without it."
    )


def file_status(path: Path) -> os.stat_result:
    """Size and dates of a file; an OSError that names it without its folder if there are none."""
    try:
        return path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(gone(path)) from None
    except OSError as error:
        # A network drive that is away answers with its own errors.
        reason = error.strerror or type(error).__name__
        raise type(error)(
            f"{path.name} cannot be read ({reason}): check the drive and the access to it."
        ) from None


def _stamp(path: Path) -> str:
    status = file_status(path)
    return f"{status.st_size} {status.st_mtime_ns}"
