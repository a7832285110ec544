"""The sprite world's text encoder: CLIP-L from seeded random weights, two live layers."""

from __future__ import annotations

import torch
from torch import Tensor

from .checkpoints import clip_module, is_dead

LIVE_LAYERS = 2
# The size of the random weights, per square root of a matrix's inputs (tables: of an entry).
# A word keeps most of its own direction; its place and the words before it add a share that the
# UNet can read. The token table has the row norms of the published CLIP-L.
SPREADS = {
    "token_embedding": 0.014,
    "position_embedding": 0.004,
    "q_proj": 1.5,
    "k_proj": 1.5,
    "v_proj": 1.0,
    "out_proj": 0.02,
    "fc1": 1.0,
    "fc2": 0.01,
}


def text_weights(seed: int = 3) -> dict[str, Tensor]:
    """CLIP-L weights by the host's names, fp16; layers that do nothing are on the meta device."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, shaped in clip_module("clip_l").state_dict().items():
        name = key.split(".")[-2]
        if shaped.dim() == 1:
            value = torch.full(shaped.shape, float(key.endswith("weight")))
        elif name in SPREADS and not is_dead(key, LIVE_LAYERS):
            spread = SPREADS[name] * (1 if "embedding" in name else shaped.shape[1] ** -0.5)
            value = torch.randn(shaped.shape, generator=generator) * spread
        else:
            value = torch.empty(shaped.shape, device="meta")
        weights[key] = value.half()
    return weights
