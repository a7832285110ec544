"""Packs weights to one byte each: integers per row, with a scale per row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ".scale"


def pack(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels become int8 with a scale per output; all else becomes fp16."""
    packed = {}
    for key, weight in weights.items():
        if weight.dim() < 2:
            packed[key] = weight.half()
            continue
        rows = weight.float().flatten(1)
        scale = (rows.abs().amax(1, keepdim=True) / 127).clamp(min=1e-8)
        packed[key] = (rows / scale).round().to(torch.int8).view(weight.shape)
        packed[key + SCALE] = scale[:, 0]
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a packed mapping in fp32."""
    weights = {}
    for key, value in packed.items():
        if value.dtype is torch.int8:
            scale = packed[key + SCALE].view(-1, *[1] * (value.dim() - 1))
            weights[key] = value.float() * scale
        elif not key.endswith(SCALE):
            weights[key] = value.float()
    return weights
