"""Recomputing blocks in backward, exact on the host's blocks that change their input in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

IN_PLACE_BLOCKS = frozenset({"T5Block", "DoubleStreamBlock", "SingleStreamBlock"})
"""Classes of blocks that plain autograd cannot record at all."""

ADDING_BLOCKS = frozenset({"CLIPLayer"})
"""Classes of blocks that change their input in place, after norms that need not keep it."""

UNET_BLOCKS = frozenset({"ResBlock", "BasicTransformerBlock"})
"""Classes of blocks in UNets whose activations are worth a second computation."""

BlockOutput = Tensor | tuple[Any, ...]
BlockForward = Callable[..., BlockOutput]


def large_blocks(network: nn.Module) -> frozenset[str]:
    """Class names of the blocks worth recomputing: a UNet's, or those that a transformer stacks."""
    # Transformers of every family keep their blocks in lists directly under the network.
    lists = [child for child in network.children() if isinstance(child, nn.ModuleList)]
    stacked = [block for blocks in lists for block in blocks if _holds_layers(block)]
    return UNET_BLOCKS | {type(block).__name__ for block in stacked}


def _holds_layers(block: nn.Module) -> bool:
    """Whether an entry of a list is a block of layers, not a single layer or a level of a UNet."""
    inside = list(block.modules())
    layers = [module for module in inside if isinstance(module, nn.Linear)]
    nested = any(type(module).__name__ in UNET_BLOCKS for module in inside[1:])
    return len(layers) > 1 and not nested and not type(block).__module__.startswith("torch.")


class _Recomputed(Function):
    """Runs a block without a graph, and again with one in backward."""

    # torch.utils.checkpoint gives wrong gradients without any error on blocks that change their
    # inputs in place: the second run would see what the first one left. Here the block gets
    # copies both times, and changing saved tensors is allowed during the recomputation only.

    @staticmethod
    def forward(
        ctx: Any, call: Callable[..., BlockOutput], marker: Tensor, *tensors: Tensor
    ) -> BlockOutput:
        ctx.call = call
        ctx.save_for_backward(*tensors)
        return call(*_copied(tensors))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs = [
            saved.detach().requires_grad_(needed)
            for saved, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[2:], strict=True)
        ]
        with torch.enable_grad(), torch.autograd.graph.allow_mutation_on_saved_tensors():
            output = ctx.call(*_copied(inputs))
            outputs = output if isinstance(output, tuple) else (output,)
            reached = [
                (tensor, grad)
                for tensor, grad in zip(outputs, grads, strict=True)
                if grad is not None and isinstance(tensor, Tensor) and tensor.requires_grad
            ]
            # This also accumulates the gradients of adapters inside the block.
            reached_outputs, their_grads = zip(*reached, strict=True)
            torch.autograd.backward(reached_outputs, their_grads)
        return (None, None, *(tensor.grad for tensor in inputs))


def _copied(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of what a block may change in place: its first input and any sequence of tokens."""
    return [
        x.clone() if not index or (x.ndim == 3 and x.is_floating_point()) else x
        for index, x in enumerate(tensors)
    ]


class _SumOfGradients(Function):
    """The identity; backward sums the gradients of one block's input before others are added."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def gathered_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of a block that keeps its activations, with the gradient of one that does not.

    A recomputed block returns one sum of gradients for an input that other blocks also read.
    Summed in the same order here, the result is the same bit for bit, whatever is recomputed.
    """

    def summed(value: Any) -> Any:
        wanted = isinstance(value, Tensor) and value.requires_grad
        return _SumOfGradients.apply(value) if wanted else value

    return lambda *args, **kwargs: forward(
        *map(summed, args), **{name: summed(value) for name, value in kwargs.items()}
    )


def counted_forward(forward: Callable[..., Any], note: Callable[[int], None]) -> Callable[..., Any]:
    """A forward that calls `note` with the bytes of every tensor that autograd keeps in it."""

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            note(tensor.untyped_storage().nbytes())
        # A copy, so that the block may change the tensor in place, as it may when recomputed.
        return tensor.clone()

    def counted(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            return forward(*args, **kwargs)

    return counted


def recomputed_forward(
    forward: Callable[..., BlockOutput], *, adapted: bool
) -> Callable[..., BlockOutput]:
    """A forward of a block that keeps nothing but its arguments for backward.

    With `adapted`, trainable parameters are inside the block, so it is recorded even if none of
    its arguments requires a gradient.
    """

    def run(*args: Any, **kwargs: Any) -> BlockOutput:
        # Copy dicts: the host writes the index of the next block into them before this block is
        # recomputed.
        values = [dict(v) if isinstance(v, dict) else v for v in (*args, *kwargs.values())]
        tensors: list[Tensor] = []
        structure = _without_tensors(values, tensors)
        wanted = adapted or any(tensor.requires_grad for tensor in tensors)
        if not (torch.is_grad_enabled() and wanted and tensors):
            return forward(*args, **kwargs)

        def call(*given: Tensor) -> BlockOutput:
            full = _with_tensors(structure, iter(given))
            copies = [dict(v) if isinstance(v, dict) else v for v in full]
            return forward(
                *copies[: len(args)], **dict(zip(kwargs, copies[len(args) :], strict=True))
            )

        # Makes autograd record the block even if only the adapters inside it are trained.
        marker = torch.empty(0, requires_grad=True)
        return _Recomputed.apply(call, marker, *tensors)

    return run


_PLACE = object()
"""Marks where a tensor was taken out."""


def _without_tensors(value: Any, taken: list[Tensor]) -> Any:
    """The value with all tensors moved to `taken`, also those in tuples, lists and dataclasses."""
    if isinstance(value, Tensor):
        taken.append(value)
        return _PLACE
    if type(value) in (tuple, list):
        return type(value)(_without_tensors(part, taken) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value,
            **{f.name: _without_tensors(getattr(value, f.name), taken) for f in fields(value)},
        )
    return value


def _with_tensors(value: Any, given: Iterator[Tensor]) -> Any:
    """The inverse of `_without_tensors`."""
    if value is _PLACE:
        return next(given)
    if type(value) in (tuple, list):
        return type(value)(_with_tensors(part, given) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: _with_tensors(getattr(value, f.name), given) for f in fields(value)}
        )
    return value
