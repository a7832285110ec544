"""What a file is called by in prompts, from headers alone: no tensor is read."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .bundle import Entry
from .files.safetensors import unreadable
from .files.torch import SUFFIXES as TORCH_SUFFIXES
from .formats import Source
from .load import open_source, read_parts


class _Slice(Protocol):
    def get_shape(self) -> list[int]: ...


class _Header(Protocol):
    def keys(self) -> list[str]: ...
    def get_slice(self, name: str) -> _Slice: ...
    def metadata(self) -> dict[str, str] | None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Glance:
    """Names in the file's order with what is known of each, and the number of LoRA tensors."""

    entries: tuple[Entry, ...]
    lora: int
    family: str
    thumbnail: str
    notes: tuple[str, ...]


def peek(path: Path) -> Glance:
    """The names of a file and of those beside it; ValueError as from `load_bundle`."""
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path.name}: refresh the list.")
    try:
        found = read_parts(path, {}, _header)
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be loaded: {error}") from error
    names = list(found.parts.embeddings)
    known = {entry.name: entry for entry in (*found.parts.entries, *found.index.entries)}
    ordered = [name for name in known if name in names]
    return Glance(
        entries=tuple(
            known.get(name, Entry(name=name)) for name in dict.fromkeys([*ordered, *names])
        ),
        lora=len(found.parts.lora),
        family=found.index.family,
        thumbnail=found.index.thumbnail,
        notes=found.parts.notes,
    )


def _header(path: Path) -> Source:
    """A file with tensors that have a shape and no content; torch's own files are small."""
    if path.suffix.lower() in TORCH_SUFFIXES:
        return open_source(path)
    try:
        opened = safe_open(str(path), framework="pt", device="cpu")
        with cast("AbstractContextManager[_Header]", opened) as file:
            tensors = {name: _shaped(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118
            return Source(tensors=tensors, metadata=file.metadata() or {}, stem=path.stem)
    except SafetensorError as error:
        raise unreadable(path, error) from error


def _shaped(part: _Slice) -> Tensor:
    return torch.empty(part.get_shape(), device="meta")
