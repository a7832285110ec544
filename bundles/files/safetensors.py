"""Safetensors files, written whole and read with limits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Protocol, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from .atomic import Write, replace_file

_BLOCK = 1024**2
MAX_HEADER = 90_000_000
"""The library reads headers of up to 100 MB."""


class _Reader(Protocol):
    """What the library's file object offers; its own stubs have no types."""

    def keys(self) -> list[str]: ...
    def get_tensor(self, name: str) -> Tensor: ...
    def metadata(self) -> dict[str, str] | None: ...


def tensor_file(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, hashed: bool = False
) -> Write:
    """What writes a safetensors file; `hashed` adds the hashes by which programs know a LoRA."""
    return partial(_write, tensors, metadata, hashed)


def replace_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    replace_file(path, tensor_file(tensors, metadata))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU, in memory of their own) and metadata; ValueError for a damaged file."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: check the name and the folder.")
    try:
        opened = safe_open(str(path), framework="pt", device="cpu")
        with cast("AbstractContextManager[_Reader]", opened) as file:
            # The library maps the file into memory; a copy survives a later change to the file.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
    except SafetensorError as error:
        raise unreadable(path, error) from error
    return tensors, metadata or {}


def read_header(path: Path) -> dict[str, str]:
    """The metadata only, without reading a tensor; ValueError for a damaged file."""
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


def _write(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], hashed: bool, file: Path
) -> None:
    tensors, metadata = _own_memory(tensors), dict(metadata)
    if hashed:
        # Only fields that never change count, so the hash survives a new title.
        save_file(tensors, file, metadata=training_fields(metadata))
        metadata |= known_hashes(file)
    if sum(map(len, metadata.values())) > MAX_HEADER:
        raise ValueError("The header would be too long to be read again: save fewer names in it.")
    save_file(tensors, file, metadata=metadata)


def training_fields(metadata: Mapping[str, str]) -> dict[str, str]:
    """The part of a header that kohya's hashes cover."""
    return {key: value for key, value in metadata.items() if key.startswith("ss_")}


def known_hashes(file: Path) -> dict[str, str]:
    """Kohya's `sshs_` hashes and ModelSpec's, for a file whose header holds only `ss_` fields.

    They cover the bytes of all tensors; the legacy one covers the 64 KiB that begin at 1 MiB.
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
    """Contiguous CPU tensors that share no memory, since the format refuses those that do."""
    owned: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        if plain.untyped_storage().data_ptr() in seen:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        owned[name] = plain
    return owned
