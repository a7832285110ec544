"""LoHa (Hyeon-Woo et al. 2022, arXiv 2108.06098): the Hadamard product of two low ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from ..ports import Layer
from .base import Adapter, RankedConfig, check_rank
from .factors import apply_weight


class LoHa(Adapter):
    """delta = s (w1_a w1_b) * (w2_a w2_b), (out, in * kernel); w2_a starts at zero."""

    suffixes = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha")

    def __init__(self, layer: Layer, config: LoHaConfig, rng: torch.Generator):
        super().__init__()
        self.conv, self.shape, self.scale = layer.conv, layer.shape, config.alpha / config.rank
        out, width = layer.shape[0], torch.Size(layer.shape[1:]).numel()
        # Initialized as in LyCORIS, so that the usual learning rates apply.
        self.w1_a = nn.Parameter(0.1 * torch.randn(out, config.rank, generator=rng))
        self.w1_b = nn.Parameter(torch.randn(config.rank, width, generator=rng))
        self.w2_a = nn.Parameter(torch.zeros(out, config.rank))
        self.w2_b = nn.Parameter(torch.randn(config.rank, width, generator=rng))

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output; the change is computed again in backward."""
        factors = (self.w1_a, self.w1_b, self.w2_a, self.w2_b)
        return _Change.apply(x, self, *factors)  # pyright: ignore

    def delta(self, *factors: Tensor) -> Tensor:
        """The change of the weight, in its shape."""
        w1_a, w1_b, w2_a, w2_b = factors
        return (self.scale * (w1_a @ w1_b) * (w2_a @ w2_b)).view(self.shape)

    def tensors(self) -> Mapping[str, Tensor]:
        """hada_w1_a to hada_w2_b and alpha, as LyCORIS names them."""
        factors = {f"hada_{name}": factor for name, factor in self.named_parameters()}
        return factors | {"alpha": torch.tensor(float(self.scale * self.w1_a.shape[1]))}


class _Change(Function):
    """A layer whose weight change is too large to be saved for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, adapter: LoHa, *factors: Tensor) -> Tensor:
        ctx.adapter = adapter
        ctx.save_for_backward(x, *factors)
        return apply_weight(x, adapter.delta(*factors).to(x.dtype), adapter.conv)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = (ctx.needs_input_grad[0], *ctx.needs_input_grad[2:])
        inputs = [
            saved.detach().requires_grad_(needed)
            for saved, needed in zip(ctx.saved_tensors, wanted, strict=True)
        ]
        x, *factors = inputs
        with torch.enable_grad():
            y = apply_weight(x, ctx.adapter.delta(*factors).to(x.dtype), ctx.adapter.conv)
        torch.autograd.backward(y, grads[0])
        return (x.grad, None, *(factor.grad for factor in factors))


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class LoHaConfig(RankedConfig):
    """Settings of LoHa."""

    rank: int = 8
    alpha: float = 8.0

    def build(self, layer: Layer, rng: torch.Generator) -> LoHa:
        """A LoHa for the layer; ValueError when the rank exceeds what the layer can have."""
        check_rank(layer, self.rank)
        return LoHa(layer, self, rng)
