"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): y = W x + alpha / rank * up(down(x))."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..ports import Layer
from .base import Adapter, check_rank, is_attention


class Lora(Adapter):
    """The low-rank path of one Linear: `down` reads the input, `up` starts at zero."""

    def __init__(self, layer: Layer, rank: int, alpha: float, draw: torch.Generator):
        super().__init__()
        self.scale = alpha / rank
        out, width = layer.shape
        bound = 1 / math.sqrt(width)
        self.down = nn.Parameter(torch.empty(rank, width).uniform_(-bound, bound, generator=draw))
        self.up = nn.Parameter(torch.zeros(out, rank))

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output, in the dtype of x; the factors stay in fp32."""
        return functional.linear(
            functional.linear(x, self.down.to(x.dtype)), self.scale * self.up.to(x.dtype)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Settings of LoRA on the attention layers."""

    rank: int = 16
    alpha: float = 16.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}: use at least 1.")
        if self.alpha <= 0:
            raise ValueError(f"alpha is {self.alpha}: use more than 0.")

    def matches(self, layer: Layer) -> bool:
        """Whether the layer is a projection of an attention block."""
        return is_attention(layer)

    def build(self, layer: Layer, draw: torch.Generator) -> Lora:
        """A LoRA for the layer; ValueError when the rank exceeds what the layer can have."""
        check_rank(layer, self.rank)
        return Lora(layer, self.rank, self.alpha, draw)

    def export(self, adapter: Adapter) -> Mapping[str, Tensor]:
        """lora_up, lora_down and alpha, as every loader reads them."""
        assert isinstance(adapter, Lora)
        return {
            "lora_up.weight": adapter.up,
            "lora_down.weight": adapter.down,
            "alpha": torch.tensor(float(self.alpha)),
        }
