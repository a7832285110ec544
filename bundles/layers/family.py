"""Which model family a file was made for, as far as its tensors show."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# The width of the text that cross-attention reads in UNets; other models have these widths too.
_BY_CONTEXT = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
_CONTEXT = re.compile(
    r"(?:input|output|down|up)_blocks.*attn2[._](?:processor[._])?to_[kv].*(?:down|lora_A)\b"
)
_BY_ENCODERS = {
    frozenset({"clip_l"}): "sd15",
    frozenset({"clip_h"}): "sd2",
    frozenset({"clip_l", "clip_g"}): "sdxl",
}


def guess_family(lora: Mapping[str, Tensor], embeddings: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The family's name, "" if the tensors do not show it; encoders count only without a LoRA."""
    if lora:
        return _family_of_lora(lora)
    encoders = frozenset(encoder for vectors in embeddings.values() for encoder in vectors)
    return _BY_ENCODERS.get(encoders, "")


def _family_of_lora(lora: Mapping[str, Tensor]) -> str:
    widths = {
        tensor.shape[1] for key, tensor in lora.items() if tensor.ndim == 2 and _CONTEXT.search(key)
    }
    return _BY_CONTEXT.get(widths.pop(), "") if len(widths) == 1 else ""
