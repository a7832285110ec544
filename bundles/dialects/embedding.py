"""A single embedding in a file of its own, named after the file."""

from __future__ import annotations

from ..encoders import ANONYMOUS, NAMED, OUTPUT
from ..metadata import read_index
from . import Dialect, Metadata, Parts, Tensors

KIND = "embedding"


def _recognizes(tensors: Tensors, metadata: Metadata) -> bool:
    ours = read_index(metadata).kind == KIND
    return bool(tensors) and all(_is_encoder(key, ours) for key in tensors)


def _is_encoder(key: str, ours: bool) -> bool:
    """Files of our own may hold encoders that no list knows, but never a dotted key."""
    return key.removesuffix(OUTPUT) in NAMED or key in ANONYMOUS or (ours and "." not in key)


def _read(tensors: Tensors, metadata: Metadata, stem: str) -> Parts:
    entries = read_index(metadata).entries
    name = entries[0].name if len(entries) == 1 else stem
    return Parts(lora={}, embeddings={name: dict(tensors)})


DIALECT = Dialect(title="an embedding", recognizes=_recognizes, read=_read)
