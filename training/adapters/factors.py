"""How low-rank factors act on what goes through a Linear or a convolution."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..ports import Convolution

_CONVOLVE = (functional.conv1d, functional.conv2d, functional.conv3d)


def apply_weight(x: Tensor, weight: Tensor, conv: Convolution | None) -> Tensor:
    """What a layer without bias makes of x with a whole weight: (out, in) or (out, in, *kernel)."""
    if conv is None:
        return functional.linear(x, weight)
    convolve = _CONVOLVE[weight.ndim - 3]
    return convolve(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)


def apply_low_rank(x: Tensor, down: Tensor, up: Tensor, conv: Convolution | None) -> Tensor:
    """up @ down applied to x: down (rank, in / groups, *kernel), up (out, rank)."""
    return widen(narrow(x, down, conv), up, conv)


def narrow(x: Tensor, down: Tensor, conv: Convolution | None) -> Tensor:
    """down applied to x: (..., rank), or (batch, groups * rank, *space) of a convolution.

    Groups share `down`: the change of the weight is up @ down whatever group a row belongs to.
    """
    if conv is None:
        return functional.linear(x, down)
    convolve, groups = _CONVOLVE[down.ndim - 3], conv.groups
    split = x.reshape(-1, down.shape[1], *x.shape[2:]) if groups > 1 else x
    inner = convolve(split, down, None, conv.stride, conv.padding, conv.dilation)
    return inner.reshape(-1, groups * len(down), *inner.shape[2:]) if groups > 1 else inner


def widen(inner: Tensor, up: Tensor, conv: Convolution | None) -> Tensor:
    """up, (out, rank), applied to what `narrow` made: each group has its own rows of it."""
    if conv is None:
        return functional.linear(inner, up)
    spatial = inner.ndim - 2
    kernel = up.reshape(*up.shape, *[1] * spatial)
    return _CONVOLVE[spatial - 1](inner, kernel, groups=conv.groups)


def on_channels(values: Tensor, conv: Convolution | None, spatial: int) -> Tensor:
    """One value a channel, shaped to multiply a layer's input or output."""
    return values if conv is None else values.reshape(-1, *[1] * spatial)


def without_bias(y: Tensor, bias: Tensor | None, conv: Convolution | None) -> Tensor:
    """A layer's output before its bias was added."""
    return y if bias is None else y - on_channels(bias.to(y.dtype), conv, y.ndim - 2)


def uniform(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Uniform within 1 / sqrt(inputs), as torch starts the weight of a Linear."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return torch.empty(shape).uniform_(-bound, bound, generator=draw)
