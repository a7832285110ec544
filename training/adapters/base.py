"""What every adapter is, and which layers adapters sit on."""

from __future__ import annotations

import re

from torch import Tensor, nn

from ..ports import Layer

ATTENTION = re.compile(r"(^|\.)attn\w*\.(to_q|to_k|to_v|to_out\.0)$")
"""The q, k, v and output projections of self- and cross-attention."""


class Adapter(nn.Module):
    """A trainable module beside one frozen layer: maps its input to what is added to its output."""

    def penalty(self) -> Tensor | None:
        """A term of its own in the loss, a scalar; None for none."""
        return None


def is_attention(layer: Layer) -> bool:
    """Whether the layer is a projection of an attention block."""
    return len(layer.shape) == 2 and ATTENTION.search(layer.name) is not None


def check_rank(layer: Layer, rank: int) -> None:
    """Raise ValueError when a rank exceeds what the layer can have."""
    largest = min(layer.shape)
    if rank > largest:
        raise ValueError(
            f"rank {rank} is larger than {layer.name}, which has rank {largest} at most: "
            f"use {largest} or less."
        )
