"""diffusers' textual inversion (`learned_embeds`): the token is the key of its vectors."""

from __future__ import annotations

from . import Dialect, Parts, Source
from .diffusers import is_token


def _recognizes(source: Source) -> bool:
    return is_token(source.tensors)


def _read(source: Source) -> Parts:
    vectors = {token: {"emb_params": tensor} for token, tensor in source.tensors.items()}
    return Parts(lora={}, embeddings=vectors)


DIALECT = Dialect(title="a textual inversion of diffusers", recognizes=_recognizes, read=_read)
