"""A single embedding in a file of its own, named after the file.

A1111, kohya, invoke-training and ai-toolkit all write it; they differ in the header alone.
"""

from __future__ import annotations

import re

from torch import Tensor

from ..bundle import Entry
from ..encoders import ANONYMOUS, CLIP_BY_WIDTH, NAMED, OUTPUT, is_count
from ..metadata import EMBEDDING, read_index
from . import Content, Format, Source

_SNAPSHOT = re.compile(r"-\d+$")


def _recognizes(source: Source) -> bool:
    ours = read_index(source.metadata).kind == EMBEDDING
    tensors = vectors_of(source)
    return bool(tensors) and all(_is_encoder(key, ours) and _fits(source, key) for key in tensors)


def _is_encoder(key: str, ours: bool) -> bool:
    """Our own files may hold encoders that are in no list, but never a dotted key."""
    return key.removesuffix(OUTPUT) in NAMED or key in ANONYMOUS or (ours and "." not in key)


def _fits(source: Source, key: str) -> bool:
    """HCP-Diffusion writes both encoders of SDXL into one tensor, which is another format."""
    shape = source.tensors[key].shape
    return key not in ANONYMOUS or len(shape) != 2 or shape[1] in CLIP_BY_WIDTH


def _read(source: Source) -> Content:
    entries = read_index(source.metadata).entries
    name = entries[0].name if len(entries) == 1 else own_name(source)
    placeholder = source.metadata.get("name", "").strip('"')
    entry = Entry(name=name, placeholder=placeholder)
    return Content(
        lora={},
        embeddings={name: vectors_of(source)},
        entries=(entry,) if placeholder not in ("", name) else (),
    )


def vectors_of(source: Source) -> dict[str, Tensor]:
    """The tensors without counts, such as the training step."""
    return {key: tensor for key, tensor in source.tensors.items() if not is_count(key, tensor)}


def own_name(source: Source) -> str:
    """The file's name, less the step of a training snapshot if the header gives the bare name."""
    bare = source.metadata.get("name", "")
    return bare if bare and _SNAPSHOT.sub("", source.stem) == bare else source.stem


FORMAT = Format(title="an embedding", recognizes=_recognizes, read=_read)
