"""Every step that a process takes on the disk below some folders, numbered, so that one can fail.

For a process that ends soon: an audit hook cannot be taken out, and the rest is not undone.
"""

from __future__ import annotations

import builtins
import io
import os
import sqlite3
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Act = Callable[[int, str, Path], None]
"""Gets the number of the event from 1 on, its kind and its path; may raise or kill."""

AUDITED = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class DiskEvents:
    """Opening to write, each write, sync, rename, link, deletion and folder below `roots`."""

    def __init__(self, roots: Sequence[Path], act: Act) -> None:
        self._roots = [str(root.resolve()) for root in roots]
        self._act, self.count, self._paths = act, 0, dict[int, Path]()
        self._wrap()
        sys.addaudithook(self._audit)

    def _note(self, kind: str, path: Any) -> None:
        if isinstance(path, int):
            path = self._paths.get(path, "")
        path = Path(os.fsdecode(path)) if path else None
        if path is not None and any(str(path.absolute()).startswith(root) for root in self._roots):
            self.count += 1
            self._act(self.count, kind, path)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in AUDITED:
            # A rename and a link are about the new name.
            self._note(event, arguments[event in ("os.rename", "os.link")])
        elif event == "open" and arguments[2] and arguments[2] & WRITING:
            self._note("open", arguments[0])

    def _wrap(self) -> None:
        """Put what no audit event tells of under watch."""
        from pack.bundles.files import safetensors as files

        opened, sync, save, connect = io.open, os.fsync, files.save_file, sqlite3.connect

        def watched_open(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            made = opened(file, mode, *rest, **more)
            if isinstance(file, int) or not set(mode) & set("wax+"):
                return made
            self._paths[made.fileno()] = Path(os.fsdecode(file))
            return Watched(made, lambda: self._note("write", file))

        def watched_sync(handle: int) -> None:
            # A folder may have the number of a file that was closed; syncing it is best effort.
            if not stat.S_ISDIR(os.fstat(handle).st_mode):
                self._note("fsync", handle)
            sync(handle)

        def watched_save(tensors: Any, file: Path, metadata: Any = None) -> None:
            self._note("save_file", file)
            save(tensors, file, metadata=metadata)

        def watched_connect(name: Any, *rest: Any, **more: Any) -> Any:
            if name != ":memory:":
                self._note("sqlite", name)
            return connect(name, *rest, factory=self._database(name), **more)

        io.open = builtins.open = watched_open
        os.fsync, files.save_file, sqlite3.connect = watched_sync, watched_save, watched_connect

    def _database(self, name: Any) -> type[sqlite3.Connection]:
        note = self._note

        class Database(sqlite3.Connection):
            def execute(self, statement: str, *rest: Any) -> Any:
                if not statement.startswith("SELECT") and name != ":memory:":
                    note("sqlite", name)
                return super().execute(statement, *rest)

            def commit(self) -> None:
                if name != ":memory:":
                    note("sqlite", name)
                super().commit()

        return Database


class Watched:
    """A file whose every write is told of first."""

    def __init__(self, file: Any, note: Callable[[], None]) -> None:
        self._file, self._note = file, note

    def write(self, data: Any) -> int:
        self._note()
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Any:
        return iter(self._file)

    def __enter__(self) -> Watched:
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)
