"""diffusers' textual inversion (`learned_embeds.safetensors`): the token is the vectors' key."""

from __future__ import annotations

import re

from ..encoders import ANONYMOUS, CLIP_BY_WIDTH, NAMED, TOKEN
from . import Content, Format, Source
from .plain import is_adapter


def _recognizes(source: Source) -> bool:
    """Whether every tensor is named by a token; a single one may be named by any word."""
    tensors = source.tensors
    if not tensors or is_adapter(tensors):
        return False
    keys = list(tensors)
    all_tokens = all(TOKEN.fullmatch(key) for key in keys)
    single = len(keys) == 1 and keys[0] not in NAMED | ANONYMOUS and not re.search("[.:]", keys[0])
    return (all_tokens or single) and all(_is_vector(tensors[key].shape) for key in keys)


def _is_vector(shape: tuple[int, ...]) -> bool:
    return len(shape) in (1, 2) and shape[-1] in CLIP_BY_WIDTH


def _read(source: Source) -> Content:
    vectors = {token: {"emb_params": tensor} for token, tensor in source.tensors.items()}
    return Content(lora={}, embeddings=vectors)


FORMAT = Format(title="a textual inversion of diffusers", recognizes=_recognizes, read=_read)
