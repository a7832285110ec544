"""Low-rank factors applied to the input of a Linear or a convolution."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..ports import Convolution

_CONVOLVE = (functional.conv1d, functional.conv2d, functional.conv3d)


def apply_weight(x: Tensor, weight: Tensor, conv: Convolution | None) -> Tensor:
    """Apply a whole weight, (out, in) or (out, in, *kernel), to x, without bias."""
    if conv is None:
        return functional.linear(x, weight)
    convolve = _CONVOLVE[weight.ndim - 3]
    return convolve(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)


def apply_low_rank(x: Tensor, down: Tensor, up: Tensor, conv: Convolution | None) -> Tensor:
    """Apply up @ down to x: down (rank, in / groups, *kernel), up (out, rank)."""
    return widen(narrow(x, down, conv), up, conv)


def narrow(x: Tensor, down: Tensor, conv: Convolution | None) -> Tensor:
    """Apply down to x: (..., rank), or (batch, groups * rank, *space) for a convolution.

    Groups share `down`: the change of the weight is up @ down whatever group a row belongs to.
    """
    if conv is None:
        return functional.linear(x, down)
    convolve, groups = _CONVOLVE[down.ndim - 3], conv.groups
    split = x.reshape(-1, down.shape[1], *x.shape[2:]) if groups > 1 else x
    inner = convolve(split, down, None, conv.stride, conv.padding, conv.dilation)
    return inner.reshape(-1, groups * len(down), *inner.shape[2:]) if groups > 1 else inner


def widen(inner: Tensor, up: Tensor, conv: Convolution | None) -> Tensor:
    """Apply up, (out, rank), to the result of `narrow`; each group has its own rows of up."""
    if conv is None:
        return functional.linear(inner, up)
    spatial = inner.ndim - 2
    kernel = up.reshape(*up.shape, *[1] * spatial)
    return _CONVOLVE[spatial - 1](inner, kernel, groups=conv.groups)


def on_channels(values: Tensor, conv: Convolution | None, spatial: int) -> Tensor:
    """Values for the channels, reshaped to multiply a layer's input or output."""
    return values if conv is None else values.reshape(-1, *[1] * spatial)


def without_bias(y: Tensor, bias: Tensor | None, conv: Convolution | None) -> Tensor:
    """A layer's output without its bias."""
    return y if bias is None else y - on_channels(bias.to(y.dtype), conv, y.ndim - 2)


def uniform(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Uniform within 1 / sqrt(inputs), as torch initializes a Linear."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return torch.empty(shape).uniform_(-bound, bound, generator=rng)
