"""A LoRA without embeddings, under whatever key names its trainer gave it."""

from __future__ import annotations

import re

from ..layers.diffusers_keys import with_alphas
from . import Dialect, Parts, Source, Tensors

# What the host's loaders know a layer by: LoRA in its spellings, LoHa, LoKr, OFT, GLoRA, norms,
# full deltas.
_ADAPTER_KEY = re.compile(
    r"lora_(?:up|down)\.weight$|lora_[AB](?:\.\w+)?(?:\.weight)?$|[._]lora\.(?:up|down)\.weight$"
    r"|lora_linear_layer\.(?:up|down)\.weight$|\.hada_w[12]_[ab]$|\.lokr_w[12](?:_[ab])?$"
    r"|\.oft_(?:blocks|diag)$|\.[ab][12]\.weight$|\.[wb]_norm$|\.diff(?:_b)?$"
)


def is_adapter(tensors: Tensors) -> bool:
    """Whether any tensor belongs to a low-rank layer."""
    return any(_ADAPTER_KEY.search(key) for key in tensors)


def _recognizes(source: Source) -> bool:
    return is_adapter(source.tensors)


def _read(source: Source) -> Parts:
    return Parts(lora=with_alphas(source.tensors, source.metadata), embeddings={})


DIALECT = Dialect(title="a LoRA", recognizes=_recognizes, read=_read, fallback=True)
