"""Files that hold their old or their new content whole, whatever stops the process."""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from stat import S_IMODE
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows has no locks that live with a file
    fcntl = None

Write = Callable[[Path], object]
"""Fills the empty file at a path."""

ABANDONED_AFTER = 24 * 3600.0
"""Age in seconds at which a draft counts as abandoned where files cannot be locked."""
# The second name is that of drafts left behind by earlier versions.
_DRAFT = re.compile(r"\.pivotal-[0-9a-f]{16}\.tmp|\..+\.pivotal-part", re.DOTALL)
# How file systems without hard links (FAT, some network shares, phones) answer os.link.
_NO_LINKS = frozenset(
    {
        errno.EPERM,
        errno.EACCES,
        errno.EINVAL,
        errno.ENOSYS,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.EMLINK,
    }
)


def replace_file(path: Path, write: Write) -> None:
    """Let `write` fill a draft, which then takes the place of the file at `path`, if any.

    The draft is next to the file and on the disk before it is renamed; an error or a crash leaves
    the old file untouched.
    """
    with _draft(path.parent) as draft:
        _fill(draft, write)
        os.replace(draft, path)
    sync_folder(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Replace a file by UTF-8 text without a byte-order mark; undecodable bytes survive."""
    replace_file(path, lambda draft: draft.write_bytes(text.encode("utf-8", "surrogateescape")))


def create_files(files: Mapping[Path, Write]) -> None:
    """Write several new files or none; FileExistsError names the first path that is taken."""
    for path in files:
        if os.path.lexists(path):
            raise _taken(path)
    with ExitStack() as stack:
        drafts = {path: stack.enter_context(_draft(path.parent)) for path in files}
        for path, draft in drafts.items():
            _fill(draft, files[path])
        _publish_all(drafts)
    for folder in {path.parent for path in files}:
        sync_folder(folder)


def remove_drafts(folders: Iterable[Path]) -> int:
    """Remove drafts that no living process is writing; return how many.

    Links, folders and files under other names are left alone, and so is whatever cannot be
    listed, opened or removed.
    """
    count = 0
    for folder in dict.fromkeys(folders):
        with suppress(OSError), os.scandir(folder) as entries:
            drafts = [Path(entry.path) for entry in entries if _is_draft(entry)]
            count += sum(_removed(draft) for draft in drafts)
    return count


def sync_folder(folder: Path) -> None:
    """Bring new names in a folder to the disk, where the system can; the files are whole anyway."""
    if os.name == "nt":
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _draft(folder: Path) -> Generator[Path, None, None]:
    """An empty file that exists within the context, locked so that `remove_drafts` spares it."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: create it before saving into it.")
    draft, file = _new_draft(folder)
    try:
        with file:
            # Windows refuses to rename a file that is open.
            if fcntl is None:
                file.close()
            yield draft
    finally:
        draft.unlink(missing_ok=True)


def _new_draft(folder: Path) -> tuple[Path, BinaryIO]:
    """A new file, locked where the system can, under a name that nobody else has."""
    while True:
        draft = folder / f".pivotal-{secrets.token_hex(8)}.tmp"
        file = open(draft, "xb")  # noqa: SIM115 - the caller closes it
        if fcntl is None:
            return draft, file
        with suppress(OSError):  # a file system without locks: the draft's age decides there
            fcntl.flock(file, fcntl.LOCK_EX)
        # Between its creation and its lock, another process may have taken it for abandoned.
        if os.fstat(file.fileno()).st_nlink:
            return draft, file
        file.close()


def _fill(draft: Path, write: Write) -> None:
    """Write a draft down to the disk, with the permissions that the user's umask gives."""
    mode = draft.stat().st_mode
    write(draft)
    # The safetensors library puts a file of its own in place, which no other user may read.
    if draft.stat().st_mode != mode:
        draft.chmod(S_IMODE(mode))
    with open(draft, "rb+") as file:
        os.fsync(file.fileno())


def _publish_all(drafts: Mapping[Path, Path]) -> None:
    published: list[Path] = []
    try:
        for path, draft in drafts.items():
            _publish(draft, path)
            published.append(path)
    except BaseException:
        for path in published:
            path.unlink(missing_ok=True)
        raise


def _publish(draft: Path, path: Path) -> None:
    """Give a finished draft its name without ever replacing a file."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _claim(draft, path)


def _claim(draft: Path, path: Path) -> None:
    """Without hard links: move onto an empty file, which only one process can have created."""
    try:
        path.open("xb").close()
    except FileExistsError:
        raise _taken(path) from None
    try:
        os.replace(draft, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _taken(path: Path) -> FileExistsError:
    return FileExistsError(
        f"{path} exists already and is never overwritten: choose another name or move it away."
    )


def _is_draft(entry: os.DirEntry[str]) -> bool:
    return bool(_DRAFT.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False)


def _removed(draft: Path) -> bool:
    try:
        with open(draft, "rb+") as file:
            if not _is_abandoned(file):
                return False
            if fcntl is not None:
                draft.unlink()
                return True
        draft.unlink()
    except OSError:
        return False
    return True


def _is_abandoned(file: BinaryIO) -> bool:
    """Whether no process holds the lock; without locks, whether the file is a day old."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError:
            pass
    return time.time() - os.fstat(file.fileno()).st_mtime > ABANDONED_AFTER
