"""HCP-Diffusion's embeddings for SDXL: one tensor 2048 wide, CLIP-L's 768 and CLIP-G's 1280.

Its embeddings for SD1.5 are A1111's `.pt` files, and its LoRA is a file of its own.
"""

from __future__ import annotations

from . import Content, Format, Source
from .embedding import own_name, vectors_of

_KEY = "string_to_param.*"
_CLIP_L, _BOTH = 768, 768 + 1280


def _recognizes(source: Source) -> bool:
    vectors = vectors_of(source)
    return list(vectors) == [_KEY] and vectors[_KEY].shape[-1:] == (_BOTH,)


def _read(source: Source) -> Content:
    both = source.tensors[_KEY].reshape(-1, _BOTH)
    vectors = {"clip_l": both[:, :_CLIP_L], "clip_g": both[:, _CLIP_L:]}
    return Content(lora={}, embeddings={own_name(source): vectors})


FORMAT = Format(title="an SDXL embedding of HCP-Diffusion", recognizes=_recognizes, read=_read)
