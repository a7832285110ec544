"""Safetensors files that are either whole or not there at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

# What file systems without hard links (FAT, exFAT, some network shares and phones) answer to os.link.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A file that is yet to be written."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a new file; FileExistsError where `path` is taken, and nothing appears at `path` before it is whole."""
    write_all([Draft(path=path, tensors=tensors, metadata=metadata)])


def write_all(drafts: Sequence[Draft]) -> None:
    """Write several new files or none of them; FileExistsError names the first path that is taken."""
    for draft in drafts:
        if os.path.lexists(draft.path):
            raise _taken(draft.path)
    with ExitStack() as temporary:
        staged = [(_stage(draft, temporary), draft.path) for draft in drafts]
        _publish_all(staged)
    for folder in {draft.path.parent for draft in drafts}:
        _sync_folder(folder)


def replace_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a file in place of the one at `path`, if any; an error leaves the old one untouched."""
    with ExitStack() as temporary:
        os.replace(_stage(Draft(path=path, tensors=tensors, metadata=metadata), temporary), path)
    _sync_folder(path.parent)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (on the CPU, in memory of their own) and the metadata; ValueError where the file is damaged."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: check the name and the folder.")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            names = cast("list[str]", file.keys())
            # The library maps the file into memory; a copy outlives a later change of the file.
            tensors = {name: cast(Tensor, file.get_tensor(name)).clone() for name in names}
            metadata = cast("dict[str, str] | None", file.metadata())
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}.") from error
    return tensors, metadata or {}


def _stage(draft: Draft, temporary: ExitStack) -> Path:
    """Write a draft under a temporary name beside its path, down to the disk; the name goes when the stack closes."""
    folder = draft.path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: create it before saving into it.")
    file = folder / f".pivotal-{secrets.token_hex(8)}.tmp"
    temporary.callback(file.unlink, missing_ok=True)
    save_file(_own_memory(draft.tensors), file, metadata=dict(draft.metadata))
    with open(file, "rb+") as handle:
        os.fsync(handle.fileno())
    return file


def _own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors of which no two share memory, since the format refuses those."""
    owned: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        if plain.untyped_storage().data_ptr() in seen:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        owned[name] = plain
    return owned


def _publish_all(staged: Sequence[tuple[Path, Path]]) -> None:
    published: list[Path] = []
    try:
        for file, path in staged:
            _publish(file, path)
            published.append(path)
    except BaseException:
        for path in published:
            path.unlink(missing_ok=True)
        raise


def _publish(file: Path, path: Path) -> None:
    """Give a finished file its name, without ever taking a name that is in use."""
    try:
        os.link(file, path)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _claim(file, path)


def _claim(file: Path, path: Path) -> None:
    """Without hard links: claim the name by an empty file that only one process can create, then move onto that."""
    try:
        path.open("xb").close()
    except FileExistsError:
        raise _taken(path) from None
    try:
        os.replace(file, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk too, where the system can do that: the file itself is there and whole."""
    if os.name == "nt":
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _taken(path: Path) -> FileExistsError:
    return FileExistsError(
        f"{path} exists already and is not overwritten: choose another name or move that file away."
    )
