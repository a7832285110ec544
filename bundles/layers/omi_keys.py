"""OneTrainer's OMI names of layers, which its backups always have, in names that the host knows.

SD and SDXL have the UNet's own names under `unet.`, which diffusers' layout covers. A transformer
has its own names under `transformer.`, with the parts of a joint weight numbered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_ENCODERS = (("clip_l.", "text_encoder."), ("clip_g.", "text_encoder_2."))
_T5 = ("t5.", "text_encoders.t5xxl.transformer.")
_CLIP_LAYER = re.compile(r"clip_[lg]\.(?:text_model\.encoder\.layers\.\d+|text_projection)\.")
_T5_LAYER = re.compile(r"t5\.encoder\.block\.\d+\.")
_OWN = "diffusion_model."
# The parts of Flux' and SD3's joint weights are called as in diffusers.
_PARTS = tuple(
    (re.compile(rf"transformer\.{own}\.([0-3])\."), f"transformer.{theirs}.", names)
    for own, theirs, names in (
        (
            r"double_blocks\.(\d+)\.img_attn\.qkv",
            r"transformer_blocks.{}",
            ("attn.to_q", "attn.to_k", "attn.to_v"),
        ),
        (
            r"double_blocks\.(\d+)\.txt_attn\.qkv",
            r"transformer_blocks.{}",
            ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        ),
        (
            r"single_blocks\.(\d+)\.linear1",
            r"single_transformer_blocks.{}",
            ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
        ),
        (
            r"joint_blocks\.(\d+)\.x_block\.attn\.qkv",
            r"transformer_blocks.{}",
            ("attn.to_q", "attn.to_k", "attn.to_v"),
        ),
        (
            r"joint_blocks\.(\d+)\.context_block\.attn\.qkv",
            r"transformer_blocks.{}",
            ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        ),
        (
            r"joint_blocks\.(\d+)\.x_block\.attn2\.qkv",
            r"transformer_blocks.{}",
            ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
        ),
    )
)


def is_omi(tensors: Mapping[str, Tensor]) -> bool:
    """Whether layers have OMI names that no other layout has."""
    return any(
        _CLIP_LAYER.match(key) or _T5_LAYER.match(key) or any(p.match(key) for p, _, _ in _PARTS)
        for key in tensors
    )


def from_omi(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under names of diffusers and of the host."""
    return {_renamed(key): tensor for key, tensor in tensors.items()}


def _renamed(key: str) -> str:
    for old, new in (*_ENCODERS, _T5):
        if key.startswith(old):
            return new + key.removeprefix(old)
    for part, prefix, names in _PARTS:
        match = part.match(key)
        if match and int(match[2]) < len(names):
            return prefix.format(match[1]) + names[int(match[2])] + key[match.end() - 1 :]
    if key.startswith("transformer."):
        # In Flux this layer is called like its only part.
        own = key.removeprefix("transformer.").replace("img_in.proj.", "img_in.")
        return _OWN + own
    return key
