"""Frozen layers that save no weight for backward but fetch it again through the host's cast.

The weights of a large model would not fit next to its activations, and the host may have moved or
quantized them; what backward saves here is at most the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ops
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._python_dispatch import _disable_current_modes

Forward = Callable[..., Tensor]

PROJECTIONS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@contextmanager
def lend_weight(module: nn.Module, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The module's weight and bias in the dtype and on the device of `like`."""
    weight, bias, stream = _cast(module, like)
    try:
        plain = weight.dequantize() if isinstance(weight, comfy.ops.QuantizedTensor) else weight
        yield plain.detach(), None if bias is None else bias.detach()
    finally:
        comfy.ops.uncast_bias_weight(module, weight, bias, stream)


def _own_cast(module: nn.Module) -> Callable[..., Any] | None:
    """The cast that quantized layers of other packs (GGUF) bring along."""
    return getattr(module, "cast_bias_weight", None)


def _cast(module: nn.Module, like: Tensor) -> tuple[Tensor, Tensor | None, Any]:
    """Weight, bias and the handle that returns them, by the layer's own cast or else the host's."""
    own = _own_cast(module)
    if own is None:
        return comfy.ops.cast_bias_weight(module, like, offloadable=True)
    with _disable_current_modes():
        weight, bias, *_ = own(like)
    return weight, bias, None


def tamed(module: nn.Module, forward: Forward) -> Forward:
    """A layer's forward, changed where autograd could not record it."""
    if isinstance(module, comfy.ops.fp8_ops.Linear):
        # The host's fp8 layers clamp their input in place.
        return lambda x: forward(x.clone())
    if _own_cast(module) is None:
        return forward

    # In the mode that allows changing saved tensors, such casts return no plain tensors.
    def run(*args: Any, **kwargs: Any) -> Tensor:
        with _disable_current_modes():
            return forward(*args, **kwargs)

    return run


def weight_of(module: nn.Module) -> Tensor:
    """A copy of the module's dequantized weight, in fp32 on the CPU."""
    with lend_weight(module, torch.empty(0)) as (weight, _):
        return weight.clone()


class _Projection(Function):
    """A Linear or convolution; backward needs its weight and the input's shape, nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: nn.Module, forward: Forward) -> Tensor:
        ctx.module, ctx.shape = module, x.shape
        return forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        with lend_weight(ctx.module, grad) as (weight, _):
            if isinstance(ctx.module, nn.Linear):
                return grad @ weight, None, None
            return _convolution_input_grad(grad, ctx.shape, weight, ctx.module), None, None


def _convolution_input_grad(grad: Tensor, shape: torch.Size, weight: Tensor, module: Any) -> Tensor:
    like = grad.new_empty(1).expand(shape)
    options = [module.stride, module.padding, module.dilation, False, [0], module.groups]
    return torch.ops.aten.convolution_backward(
        grad, like, weight, None, *options, [True, False, False]
    )[0]


class _LowRankLinear(Function):
    """A frozen Linear and its low-rank path as one function, y = W x + b + up (down x).

    Both paths add into the same output and the same input gradient, so nothing as large as the
    layer's output exists twice. Backward keeps x and the narrow product down x.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, down: Tensor, up: Tensor, module: nn.Module, forward: Forward
    ) -> Tensor:
        inner = x.flatten(0, -2) @ down.t()
        y = forward(x)
        y.view(-1, y.shape[-1]).addmm_(inner, up.t())
        ctx.module = module
        ctx.save_for_backward(x, inner, down, up)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x, inner, down, up = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        narrow = grad @ up
        to_input = None
        # Constant text needs no gradient, and then the weight is not fetched again.
        if ctx.needs_input_grad[0]:
            with lend_weight(ctx.module, grad) as (weight, _):
                to_input = (grad @ weight).addmm_(narrow, down).view(x.shape)
        return to_input, narrow.t() @ x.flatten(0, -2), grad.t() @ inner, None, None


def low_rank_forward(
    module: nn.Module, forward: Forward, factors: Callable[[], tuple[Tensor, Tensor] | None]
) -> Forward:
    """The forward of a frozen Linear plus up @ down @ x, in the dtype of x.

    `forward` is the module's own, and `factors` returns (down, up).
    """

    def adapted(x: Tensor) -> Tensor:
        pair = factors()
        assert pair is not None, "an adapter that has lost its factors"
        down, up = (factor.to(x.dtype) for factor in pair)
        return _LowRankLinear.apply(x, down, up, module, forward)

    return adapted


class _LayerNorm(Function):
    """A layer norm that keeps its input and two numbers for each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: nn.LayerNorm) -> Tensor:
        with lend_weight(module, x) as (weight, bias):
            y, mean, rstd = torch.native_layer_norm(
                x, module.normalized_shape, weight, bias, module.eps
            )
        ctx.module = module
        ctx.save_for_backward(x, mean, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, mean, rstd = ctx.saved_tensors
        with lend_weight(ctx.module, x) as (weight, bias):
            grad = torch.ops.aten.native_layer_norm_backward(
                grads[0], x, ctx.module.normalized_shape, mean, rstd, weight, bias,
                [True, False, False],
            )[0]  # fmt: skip
        return grad, None


class _LayerNormAhead(Function):
    """A layer norm that keeps normalized values, so that its input may be changed afterwards.

    With z = (x - mean) / deviation, the gradient is that of a norm of z, divided by the deviation
    (Ba et al. 2016, arXiv 1607.06450).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: nn.LayerNorm) -> Tensor:
        z, _, rstd = torch.native_layer_norm(x, module.normalized_shape, None, None, module.eps)
        with lend_weight(module, x) as (weight, bias):
            y = z * weight if bias is None else torch.addcmul(bias, z, weight)
        ctx.module = module
        ctx.save_for_backward(z, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        z, rstd = ctx.saved_tensors
        mean, one = torch.zeros_like(rstd), torch.ones_like(rstd)
        with lend_weight(ctx.module, z) as (weight, bias):
            grad = torch.ops.aten.native_layer_norm_backward(
                grads[0], z, ctx.module.normalized_shape, mean, one, weight, bias,
                [True, False, False],
            )[0]  # fmt: skip
        return grad * rstd, None


class _GroupNorm(Function):
    """A group norm that keeps its input and two numbers for each group."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: nn.GroupNorm) -> Tensor:
        with lend_weight(module, x) as (weight, bias):
            y, mean, rstd = torch.native_group_norm(
                x, weight, bias, *_group_sizes(x, module), module.eps
            )
        ctx.module = module
        ctx.save_for_backward(x, mean, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, mean, rstd = ctx.saved_tensors
        with lend_weight(ctx.module, x) as (weight, _):
            grad = torch.ops.aten.native_group_norm_backward(
                grads[0].contiguous(), x, mean, rstd, weight, *_group_sizes(x, ctx.module),
                [True, False, False],
            )[0]  # fmt: skip
        return grad, None


class _RMSNorm(Function):
    """An RMS norm (Zhang and Sennrich 2019, arXiv 1910.07467) that keeps only its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: nn.RMSNorm, forward: Forward) -> Tensor:
        ctx.module = module
        ctx.save_for_backward(x)
        return forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        module = ctx.module
        axes = tuple(range(-len(module.normalized_shape), 0))
        eps = torch.finfo(x.dtype).eps if module.eps is None else module.eps
        y = x.float()
        with lend_weight(module, x) as (weight, _):
            grad = grads[0].float() * weight.float()
        scale = (y.square().mean(axes, keepdim=True) + eps).rsqrt()
        inner = (grad * y).mean(axes, keepdim=True)
        return (scale * (grad - y * scale.square() * inner)).to(x), None, None


def _group_sizes(x: Tensor, module: nn.GroupNorm) -> tuple[int, int, int, int]:
    return x.shape[0], x.shape[1], x[0, 0].numel(), module.num_groups


def frozen_forward(
    module: nn.Module, forward: Forward, *, input_changes: bool = False
) -> Forward | None:
    """A forward that keeps no weight for backward; None for a module that keeps none anyway.

    `forward` is the module's own, which casts, dequantizes and offloads as the host does. With
    `input_changes`, the input of a norm is changed in place later.
    """
    if not isinstance(module, comfy.ops.CastWeightBiasOp):
        return None
    if isinstance(module, PROJECTIONS):
        return lambda x, *rest: (
            _Projection.apply(x, module, lambda y: forward(y, *rest))
            if _recorded(x)
            else forward(x, *rest)
        )
    if isinstance(module, nn.LayerNorm) and module.elementwise_affine:
        norm = _LayerNormAhead if input_changes else _LayerNorm
        return lambda x: norm.apply(x, module) if _recorded(x) else forward(x)
    if isinstance(module, nn.RMSNorm) and module.weight is not None:
        return lambda x: _RMSNorm.apply(x, module, forward) if _recorded(x) else forward(x)
    if isinstance(module, nn.GroupNorm) and module.affine:
        return lambda x: _GroupNorm.apply(x.contiguous(), module) if _recorded(x) else forward(x)
    return None


def _recorded(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad
