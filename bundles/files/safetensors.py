"""Safetensors files that are either whole or not there at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_IMODE
from typing import Protocol, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

# What file systems without hard links (FAT, some network shares, phones) answer to os.link.
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

_BLOCK = 1024**2
MAX_HEADER = 90_000_000
"""The library reads headers of up to 100 MB."""


class _Reader(Protocol):
    """What the library's file object offers; its own stubs have no types."""

    def keys(self) -> list[str]: ...
    def get_tensor(self, name: str) -> Tensor: ...
    def metadata(self) -> dict[str, str] | None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A file that is yet to be written."""

    path: Path
    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    text: str | None = None
    """Of a file that is no safetensors file."""
    hashed: bool = False
    """Whether the header says the hashes that other programs know a LoRA by."""


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a new file, seen at `path` only when whole; FileExistsError where that is taken."""
    write_all([Draft(path=path, tensors=tensors, metadata=metadata)])


def write_all(drafts: Sequence[Draft]) -> None:
    """Write several new files or none; FileExistsError names the first path that is taken."""
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
    """Tensors (on the CPU, in memory of their own) and metadata; ValueError where damaged."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: check the name and the folder.")
    try:
        opened = safe_open(str(path), framework="pt", device="cpu")
        with cast("AbstractContextManager[_Reader]", opened) as file:
            # The library maps the file into memory; a copy outlives a later change of the file.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
    except SafetensorError as error:
        raise unreadable(path, error) from error
    return tensors, metadata or {}


def read_header(path: Path) -> dict[str, str]:
    """The metadata alone, without any tensor; ValueError where the file is damaged."""
    try:
        opened = safe_open(str(path), framework="pt", device="cpu")
        with cast("AbstractContextManager[_Reader]", opened) as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: object) -> ValueError:
    """The sentence about a damaged safetensors file."""
    return ValueError(
        f"{path} is not a readable safetensors file: {error}. Copy it again or choose another."
    )


def _stage(draft: Draft, temporary: ExitStack) -> Path:
    """Write a draft beside its path, down to the disk; the stack removes the temporary name."""
    folder = draft.path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: create it before saving into it.")
    file = folder / f".pivotal-{secrets.token_hex(8)}.tmp"
    temporary.callback(file.unlink, missing_ok=True)
    file.open("xb").close()
    # The library makes files that no other user can read; these get what the user's umask gives.
    mode = file.stat().st_mode
    _fill(draft, file)
    if file.stat().st_mode != mode:
        file.chmod(S_IMODE(mode))
    with open(file, "rb+") as handle:
        os.fsync(handle.fileno())
    return file


def _fill(draft: Draft, file: Path) -> None:
    if draft.text is not None:
        file.write_text(draft.text, encoding="utf-8")
        return
    tensors, metadata = _own_memory(draft.tensors), dict(draft.metadata)
    if draft.hashed:
        # Only fields that never change count, so that a new title leaves the hash as it was.
        save_file(tensors, file, metadata=training_fields(metadata))
        metadata |= known_hashes(file)
    if sum(map(len, metadata.values())) > MAX_HEADER:
        raise ValueError("The header would be too long to be read again: save fewer names in it.")
    save_file(tensors, file, metadata=metadata)


def training_fields(metadata: Mapping[str, str]) -> dict[str, str]:
    """The part of a header that kohya's hashes count."""
    return {key: value for key, value in metadata.items() if key.startswith("ss_")}


def known_hashes(file: Path) -> dict[str, str]:
    """Kohya's `sshs_` hashes and ModelSpec's, of a file whose header holds `ss_` fields alone.

    The one is of all tensors' bytes, the legacy one of 64 KiB that begin at 1 MiB.
    """
    whole = hashlib.sha256()
    with file.open("rb") as handle:
        handle.seek(8 + int.from_bytes(handle.read(8), "little"))
        while block := handle.read(_BLOCK):
            whole.update(block)
        handle.seek(_BLOCK)
        legacy = hashlib.sha256(handle.read(_BLOCK // 16)).hexdigest()[:8]
    digest = whole.hexdigest()
    return {
        "sshs_model_hash": digest,
        "sshs_legacy_hash": legacy,
        "modelspec.hash_sha256": f"0x{digest}",
    }


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
    """Without hard links: move onto an empty file, which only one process can have created."""
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
    """Bring the new name to the disk too where the system can; the file itself is whole."""
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
        f"{path} exists already and is never overwritten: choose another name or move it away."
    )
