"""Gradient checkpointing that is exact on the host's blocks, which add to their input in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

IN_PLACE_BLOCKS = frozenset({"CLIPLayer", "T5Block"})
"""Blocks that plain autograd cannot record at all."""

LARGE_BLOCKS = frozenset({"ResBlock", "BasicTransformerBlock"})
"""Blocks worth recomputing to save their activations."""


class _Recomputed(Function):
    """Runs a block without a graph and again with one in backward.

    torch's own checkpoint gives wrong gradients, without an error, on blocks that change their
    input in place when such mutation is allowed; here the block sees a copy of its input both
    times, and the allowance is opened for the recomputation alone.
    """

    @staticmethod
    def forward(ctx: Any, call: Callable[..., Tensor], marker: Tensor, *tensors: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*tensors)
        return call(tensors[0].clone(), *tensors[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [
            saved.detach().requires_grad_(needed)
            for saved, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[2:], strict=True)
        ]
        with torch.enable_grad(), torch.autograd.graph.allow_mutation_on_saved_tensors():
            output = ctx.call(inputs[0].clone(), *inputs[1:])
            # Also adds to the gradients of the adapters inside the block.
            torch.autograd.backward(output, grads[0])
        return (None, None, *(tensor.grad for tensor in inputs))


def checkpointed_forward(forward: Callable[..., Tensor], *, adapted: bool) -> Callable[..., Tensor]:
    """A forward of a block that keeps only its tensor arguments for backward.

    `adapted` says that trainable parameters sit inside, so the block is recorded even when
    nothing that goes in asks for a gradient.
    """

    def run(*args: Any, **kwargs: Any) -> Tensor:
        values = [*args, *kwargs.values()]
        wanted = adapted or any(isinstance(v, Tensor) and v.requires_grad for v in values)
        if not (torch.is_grad_enabled() and wanted):
            return forward(*args, **kwargs)
        places = [place for place, value in enumerate(values) if isinstance(value, Tensor)]
        call = _with_tensors(forward, values, places, len(args), list(kwargs))
        # The marker makes autograd record the block when only adapters inside it train.
        marker = torch.empty(0, requires_grad=True)
        return _Recomputed.apply(call, marker, *(values[place] for place in places))

    return run


def _with_tensors(
    forward: Callable[..., Tensor],
    values: list[Any],
    places: list[int],
    count: int,
    names: list[str],
) -> Callable[..., Tensor]:
    """`forward` as a function of its tensor arguments alone.

    Dicts are copied, because the host writes the place of the next block into them before
    this one is recomputed.
    """
    kept = [dict(value) if isinstance(value, dict) else value for value in values]
    for place in places:
        kept[place] = None

    def call(*tensors: Tensor) -> Tensor:
        full = list(kept)
        for place, tensor in zip(places, tensors, strict=True):
            full[place] = tensor
        return forward(*full[:count], **dict(zip(names, full[count:], strict=True)))

    return call
