"""Gradient checkpointing that is exact on the host's blocks, which add to their input in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

IN_PLACE_BLOCKS = frozenset({"T5Block", "DoubleStreamBlock", "SingleStreamBlock"})
"""Blocks that plain autograd cannot record at all."""

ADDING_BLOCKS = frozenset({"CLIPLayer"})
"""Blocks that change their input in place, but only after norms that can do without it."""

UNET_BLOCKS = frozenset({"ResBlock", "BasicTransformerBlock"})
"""Blocks of UNets that are worth recomputing to save their activations."""

Output = Tensor | tuple[Any, ...]


def large_blocks(network: nn.Module) -> frozenset[str]:
    """Class names of the blocks worth recomputing: a UNet's, or what a transformer stacks.

    Transformers of every family keep their blocks in lists right under the network.
    """
    lists = [child for child in network.children() if isinstance(child, nn.ModuleList)]
    stacked = [block for blocks in lists for block in blocks if _holds_layers(block)]
    return UNET_BLOCKS | {type(block).__name__ for block in stacked}


def _holds_layers(block: nn.Module) -> bool:
    """Whether a list's entry is a block of layers, and not one layer or a level of a UNet."""
    inside = list(block.modules())
    layers = [module for module in inside if isinstance(module, nn.Linear)]
    nested = any(type(module).__name__ in UNET_BLOCKS for module in inside[1:])
    return len(layers) > 1 and not nested and not type(block).__module__.startswith("torch.")


class _Recomputed(Function):
    """Runs a block without a graph and again with one in backward.

    torch's own checkpoint gives wrong gradients, without an error, on blocks that change their
    inputs in place when such mutation is allowed; here the block sees copies of them both
    times, and the allowance is opened for the recomputation alone.
    """

    @staticmethod
    def forward(ctx: Any, call: Callable[..., Output], marker: Tensor, *tensors: Tensor) -> Output:
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
                (one, grad)
                for one, grad in zip(outputs, grads, strict=True)
                if grad is not None and isinstance(one, Tensor) and one.requires_grad
            ]
            # Also adds to the gradients of the adapters inside the block.
            torch.autograd.backward(*zip(*reached, strict=True))
        return (None, None, *(tensor.grad for tensor in inputs))


def _copied(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of what a block may change in place: its first input, and any stream of tokens."""
    return [
        one.clone() if not place or (one.ndim == 3 and one.is_floating_point()) else one
        for place, one in enumerate(tensors)
    ]


class _Gate(Function):
    """The identity, where all gradients of one block's input are summed before others join."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def gathered_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward of a block that is not recomputed, with the sums of one that is.

    A recomputed block hands on the sum of its gradients for an input that others read too;
    summed in the same order without recomputation, the result is the same bit for bit.
    """

    def gate(value: Any) -> Any:
        return _Gate.apply(value) if isinstance(value, Tensor) and value.requires_grad else value

    return lambda *args, **kwargs: forward(
        *(gate(value) for value in args), **{name: gate(value) for name, value in kwargs.items()}
    )


def counted_forward(forward: Callable[..., Any], note: Callable[[int], None]) -> Callable[..., Any]:
    """A forward that tells `note` the bytes of every tensor that autograd keeps in it.

    Copies are kept, so that a block may change what it has kept, as under recomputation.
    """

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            note(tensor.untyped_storage().nbytes())
        return tensor.clone()

    def counted(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            return forward(*args, **kwargs)

    return counted


def checkpointed_forward(forward: Callable[..., Output], *, adapted: bool) -> Callable[..., Output]:
    """A forward of a block that keeps only the tensors among its arguments for backward.

    `adapted` says that trainable parameters sit inside, so the block is recorded even when
    nothing that goes in asks for a gradient.
    """

    def run(*args: Any, **kwargs: Any) -> Output:
        # Dicts are copied, because the host writes the place of the next block into them
        # before this one is recomputed.
        values = [dict(v) if isinstance(v, dict) else v for v in (*args, *kwargs.values())]
        tensors: list[Tensor] = []
        rest = _without_tensors(values, tensors)
        wanted = adapted or any(tensor.requires_grad for tensor in tensors)
        if not (torch.is_grad_enabled() and wanted and tensors):
            return forward(*args, **kwargs)

        def call(*given: Tensor) -> Output:
            full = _with_tensors(rest, iter(given))
            copies = [dict(v) if isinstance(v, dict) else v for v in full]
            return forward(
                *copies[: len(args)], **dict(zip(kwargs, copies[len(args) :], strict=True))
            )

        # The marker makes autograd record the block when only adapters inside it train.
        marker = torch.empty(0, requires_grad=True)
        return _Recomputed.apply(call, marker, *tensors)

    return run


_PLACE = object()
"""Stands where a tensor was taken out."""


def _without_tensors(value: Any, taken: list[Tensor]) -> Any:
    """The value with its tensors moved to `taken`, also out of tuples, lists and dataclasses."""
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
