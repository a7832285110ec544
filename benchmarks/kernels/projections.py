"""q, k and v of self-attention with LoRA: one autograd function each, or one for all three.

The shared function multiplies its input by the three down-projections at once, and accumulates one
gradient of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from .turns import Row, compare

IDEA = "one down-projection of q, k and v"
SIZES = ((1024, 320), (256, 640), (64, 1280), (4096, 320), (1024, 640), (256, 1280))
"""Tokens and channels of SD1.5's self-attentions at latents of 32x32 and 64x64."""
RANKS = (8, 64)
PAIRS = 16


class Shared(Function):
    """y_i = W_i x + up_i (down_i x) with the three down-projections in one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: list[Tensor], *factors: Tensor) -> tuple[Tensor, ...]:
        downs, ups = factors[:3], factors[3:]
        down = torch.cat(downs)
        inner = x.flatten(0, -2) @ down.t()
        outputs = [nn.functional.linear(x, weight) for weight in weights]
        for y, part, up in zip(outputs, inner.chunk(3, 1), ups, strict=True):
            y.view(-1, y.shape[-1]).addmm_(part, up.t())
        ctx.weights = weights
        ctx.save_for_backward(x, inner, down, *ups)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, inner, down, *ups = ctx.saved_tensors
        flat = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        narrow = torch.cat([grad @ up for grad, up in zip(flat, ups, strict=True)], 1)
        to_input = narrow @ down
        for grad, weight in zip(flat, ctx.weights, strict=True):
            to_input.addmm_(grad, weight)
        to_down = (narrow.t() @ x.flatten(0, -2)).chunk(3)
        to_up = [grad.t() @ part for grad, part in zip(flat, inner.chunk(3, 1), strict=True)]
        return to_input.view(x.shape), None, *to_down, *to_up


def layers(channels: int) -> list[Any]:
    """The host's three projections of one attention layer."""
    import comfy.ops

    operations = comfy.ops.manual_cast
    projections = [operations.Linear(channels, channels, bias=False) for _ in range(3)]
    for layer in projections:
        nn.init.normal_(layer.weight, std=channels**-0.5)
        layer.requires_grad_(False)
    return projections


def ways(tokens: int, channels: int, rank: int) -> tuple[Callable[[], list[Tensor]], ...]:
    """Both ways forward and backward; each returns the gradients of the input and the factors."""
    from pack.nodes.host.denoiser.frozen_layers import low_rank_forward

    projections = layers(channels)
    downs = [torch.randn(rank, channels) * channels**-0.5 for _ in projections]
    ups = [torch.randn(channels, rank) * 0.1 for _ in projections]
    x = torch.randn(1, tokens, channels)
    grads = [torch.randn(1, tokens, channels) for _ in projections]
    leaves = [tensor.requires_grad_() for tensor in (x, *downs, *ups)]
    separate = [
        low_rank_forward(layer, layer.forward, lambda pair=(down, up): pair)
        for layer, down, up in zip(projections, downs, ups, strict=True)
    ]

    def ours() -> list[Tensor]:
        return list(torch.autograd.grad([forward(x) for forward in separate], leaves, grads))

    def shared() -> list[Tensor]:
        outputs = Shared.apply(x, [layer.weight for layer in projections], *downs, *ups)
        return list(torch.autograd.grad(outputs, leaves, grads))

    return ours, shared


def check(ours: list[Tensor], other: list[Tensor]) -> None:
    """Raise ValueError unless both ways give the same gradients up to rounding."""
    for a, b in zip(ours, other, strict=True):
        if (a - b).norm() > 1e-5 * a.norm():
            raise ValueError(f"{IDEA} gives another gradient.")


def rows() -> Iterator[Row]:
    for rank in RANKS:
        for tokens, channels in SIZES:
            ours, shared = ways(tokens, channels, rank)
            check(ours(), shared())
            case = f"{tokens} tokens of {channels} channels, rank {rank}"
            yield compare(IDEA, case, ours, shared, PAIRS)
