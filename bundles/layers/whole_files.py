"""Files whose names ComfyUI's loader replaces all at once: control LoRA and USO for Flux.

It knows such a file by names that a trimmed or merged one no longer has, so they are replaced
before that.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_OWN = "diffusion_model."
_CONTROL = ("img_in.lora_A.weight", "img_in.lora_B.weight", "single_blocks.0.norm.key_norm.scale")
_USO = (
    "single_blocks.37.processor.qkv_lora.up.weight",
    "double_blocks.18.processor.qkv_lora2.up.weight",
)
_CONTROL_WORDS = ((".lora_B.bias", ".diff_b"), ("_norm.scale", "_norm.set_weight"))
_USO_WORDS = (
    (".down.weight", ".lora_down.weight"),
    (".up.weight", ".lora_up.weight"),
    (".qkv_lora2.", ".txt_attn.qkv."),
    (".qkv_lora1.", ".img_attn.qkv."),
    (".proj_lora1.", ".img_attn.proj."),
    (".proj_lora2.", ".txt_attn.proj."),
    (".qkv_lora.", ".linear1_qkv."),
    (".proj_lora.", ".linear2."),
    (".processor.", "."),
)


def host_names(lora: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors under generic names; any other file as it is."""
    if all(key in lora for key in _CONTROL):
        # The control image doubles the channels of this layer.
        shape = [lora["img_in.lora_B.weight"].shape[0], lora["img_in.lora_A.weight"].shape[1]]
        renamed = _replaced(lora, _CONTROL_WORDS)
        return renamed | {f"{_OWN}img_in.reshape_weight": torch.tensor(shape)}
    if all(key in lora for key in _USO):
        return _replaced(lora, _USO_WORDS)
    return lora


def _replaced(lora: Mapping[str, Tensor], words: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, tensor in lora.items():
        for old, new in words:
            key = key.replace(old, new)
        renamed[_OWN + key] = tensor
    return renamed
