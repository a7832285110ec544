"""AUTOMATIC1111's form (pull request 13568): `bundle_emb.<name>.<key>` beside the LoRA.

OneTrainer writes it, and LyCORIS' tools pack a LoRA and embedding files into it.
"""

from __future__ import annotations

import re
from dataclasses import replace

from torch import Tensor

from ..encoders import NAMED, TOKEN, is_count
from . import Dialect, Parts, Source, read_rest

PREFIX = "bundle_emb."
_TEXTUAL_INVERSION = ".string_to_param.*"
# diffusers' embedding packed by its key, in which dots may be.
_TOKEN_LAST = re.compile(rf"(.+)\.({TOKEN.pattern})")


def embedding_key(name: str, encoder: str) -> str:
    """The tensor key of one encoder's vectors."""
    return f"{PREFIX}{name}.{encoder}"


def split_key(key: str) -> tuple[str, str]:
    """Name and encoder of a `bundle_emb` key, cut from the right as a name may hold dots."""
    rest = key.removeprefix(PREFIX)
    if rest.endswith(_TEXTUAL_INVERSION):
        name, encoder = rest.removesuffix(_TEXTUAL_INVERSION), _TEXTUAL_INVERSION[1:]
    elif found := _TOKEN_LAST.fullmatch(rest):
        name, encoder = found.groups()
    else:
        name, _, encoder = rest.rpartition(".")
    if not name or not encoder:
        raise ValueError(f"the key {key!r} is not of the form bundle_emb.<name>.<encoder>.")
    return name, encoder


def _recognizes(source: Source) -> bool:
    return any(map(_is_embedding, source.tensors))


def _read(source: Source) -> Parts:
    embeddings: dict[str, dict[str, Tensor]] = {}
    for key, tensor in source.tensors.items():
        if _is_embedding(key) and not is_count(key, tensor):
            name, encoder = split_key(key)
            embeddings.setdefault(name, {})[_own(name, encoder)] = tensor
    others = {key: t for key, t in source.tensors.items() if not _is_embedding(key)}
    rest = read_rest(replace(source, tensors=others))
    return replace(rest, embeddings={**rest.embeddings, **embeddings})


def _own(name: str, encoder: str) -> str:
    """The one key of diffusers' embedding is its token, which may be any word."""
    return "emb_params" if encoder == name and encoder not in NAMED else encoder


def _is_embedding(key: str) -> bool:
    return key.startswith(PREFIX)


DIALECT = Dialect(title="a bundle (bundle_emb)", recognizes=_recognizes, read=_read)
