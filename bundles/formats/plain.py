"""A LoRA without embeddings, under whatever key names its trainer gave it."""

from __future__ import annotations

import re

from ..files.safetensors import tensor_file
from ..layers.diffusers_keys import is_diffusers_lora, to_known_keys
from ..layers.omi_keys import from_omi, is_omi
from ..layers.peft_keys import with_alphas
from ..metadata import BUNDLE, LORA, read_index
from . import Content, Files, Format, SaveJob, Source, Tensors

# By these keys the host's loaders know a layer: LoRA in its spellings, LoHa, LoKr, OFT, GLoRA,
# norms, full deltas.
_ADAPTER_KEY = re.compile(
    r"lora_(?:up|down)\.weight$|lora_[AB](?:\.[^.]+)?(?:\.weight)?$|[._]lora\.(?:up|down)\.weight$"
    r"|lora_linear_layer\.(?:up|down)\.weight$|\.hada_w[12]_[ab]$|\.lokr_w[12](?:_[ab])?$"
    r"|\.oft_(?:blocks|diag)$|\.[ab][12]\.weight$|\.[wb]_norm$|\.diff(?:_b)?$"
)


def is_adapter(tensors: Tensors) -> bool:
    """Whether any tensor belongs to an adapted layer."""
    return any(_ADAPTER_KEY.search(key) for key in tensors)


def _recognizes(source: Source) -> bool:
    return is_adapter(source.tensors) or _is_ours(source)


def _is_ours(source: Source) -> bool:
    """Our own files say that they hold an adapter, which may be of a kind that no list knows."""
    return bool(source.tensors) and read_index(source.metadata).kind in (BUNDLE, LORA)


def _read(source: Source) -> Content:
    if is_omi(source.tensors):
        lora = from_omi(source.tensors)
        known = to_known_keys(lora) if is_diffusers_lora(lora) else lora
        return Content(lora=known, embeddings={})
    return Content(lora=with_alphas(source.tensors, source.metadata), embeddings={})


def lora_file(job: SaveJob) -> Files:
    """The LoRA of a bundle in a file of its own, if the bundle has one."""
    if not job.lora:
        return {}
    return {job.path: tensor_file(job.lora, job.metadata(LORA), hashed=True)}


FORMAT = Format(title="a LoRA", recognizes=_recognizes, read=_read, fallback=True)
