"""Whether a patch of the host has the size of its weight, which the host only logs as it samples.

The host's own formulas run on tensors that have a shape and no content.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor, nn

PEFT_DORA = "peft dora"
Shape = tuple[int, ...]
UNEQUAL = "has parts that do not match each other"
"""The one reason that no other model would change"""


def shapes_of(model: nn.Module) -> dict[str, Shape]:
    """The shape of every weight.

    Parameters first: the state dict gives quantized weights in the shape in which they are stored.
    """
    stored = {key: tuple(weight.shape) for key, weight in model.state_dict().items()}
    return stored | {key: tuple(weight.shape) for key, weight in model.named_parameters()}


def misfit(target: Any, patch: Any, shapes: Mapping[str, Shape]) -> str:
    """What is wrong with a patch that the host would not apply, "" for one that fits."""
    name = target if isinstance(target, str) else target[0]
    shape = shapes.get(name)
    if shape is None:
        return "is for a weight that this model does not have"
    offset = None if isinstance(target, str) else target[1]
    if offset is not None:
        axis, _, length = offset
        shape = (*shape[:axis], length, *shape[axis + 1 :])
    if not isinstance(patch, WeightAdapterBase):
        return _unequal_values(patch, shape)
    parts = [part.to("meta") if isinstance(part, Tensor) else part for part in patch.weights]
    try:
        return _FORMULAS.get(patch.name, _unknown)(parts, shape)
    except (RuntimeError, IndexError, ValueError, TypeError, AttributeError):
        return UNEQUAL


def is_empty(patch: Any) -> bool:
    """Whether a LoRA has rank 0, by which the host would divide its alpha."""
    if not isinstance(patch, WeightAdapterBase) or _FORMULAS.get(patch.name) not in _LORAS:
        return False
    return patch.weights[1].shape[:1] == (0,)


def _unequal_values(patch: Any, shape: Shape) -> str:
    """For a difference or a new value, which are weights themselves."""
    kind, (values, *_) = patch
    if kind == "set":
        fits = _broadcast(tuple(values.shape), shape) == shape
    else:
        fits = tuple(values.shape) == shape
    return "" if fits else _sizes(tuple(values.shape), shape)


def _sizes(made_for: Sequence[int], shape: Shape) -> str:
    return f"is made for a layer of {_size(made_for)}, which is {_size(shape)} here"


def _size(shape: Sequence[int]) -> str:
    """As a matrix, outputs x inputs."""
    rows, *columns = shape or (1,)
    return f"{rows} x {math.prod(columns)}" if columns else str(rows)


def _compared(change: Tensor, shape: Shape, lengths: Any) -> str:
    """The host gives a change the shape of its weight, whatever shape it had."""
    if change.numel() != math.prod(shape):
        return _sizes(tuple(change.shape), shape)
    return _unequal_lengths(lengths, shape)


def _unequal_lengths(lengths: Any, shape: Shape) -> str:
    """For a DoRA's lengths, one for each output or one for each input."""
    if not isinstance(lengths, Tensor):
        return ""
    own = tuple(lengths.shape)
    by_output = (shape[0], *[1] * (len(shape) - 1))
    by_input = (1, *shape[1:2], *[1] * (len(shape) - 2))
    norms = by_output if own[:1] == shape[:1] else by_input
    if _broadcast(_broadcast(own, norms) or (0,), shape) == shape:
        return ""
    return f"has a dora_scale of the shape {own}, which a layer of {_size(shape)} does not take"


def _broadcast(one: Shape, other: Shape) -> Shape | None:
    try:
        return tuple(torch.broadcast_shapes(one, other))
    except RuntimeError:
        return None


def _lora(parts: Sequence[Any], shape: Shape) -> str:
    up, down, _, mid, lengths, reshape = parts
    if reshape is not None:
        if len(reshape) != len(shape) or any(
            new < old for new, old in zip(reshape, shape, strict=True)
        ):
            return _sizes(reshape, shape)
        shape = tuple(reshape)
    if mid is not None:
        sides = (down.shape[1], down.shape[0], mid.shape[2], mid.shape[3])
        inner = torch.mm(down.transpose(0, 1).flatten(1), mid.transpose(0, 1).flatten(1))
        down = inner.reshape(sides).transpose(0, 1)
    change = torch.mm(up.flatten(1), down.flatten(1))
    # A change of as many numbers in other rows is another layer's.
    if change.shape[0] != shape[0]:
        return _sizes(tuple(change.shape), shape)
    return _compared(change, shape, lengths)


def _peft_dora(parts: Sequence[Any], shape: Shape) -> str:
    """PEFT's lengths get the host's form only when they are applied."""
    return _lora((*parts[:4], None, parts[5]), shape)


def _loha(parts: Sequence[Any], shape: Shape) -> str:
    one_a, one_b, _, two_a, two_b, one_core, two_core, lengths = parts
    one, two = _product(one_a, one_b, one_core), _product(two_a, two_b, two_core)
    return _compared(one * two, shape, lengths)


def _product(a: Tensor, b: Tensor, core: Tensor | None) -> Tensor:
    if core is None:
        return torch.mm(a, b)
    return torch.einsum("i j k l, j r, i p -> p r k l", core, b, a)


def _lokr(parts: Sequence[Any], shape: Shape) -> str:
    one, two, _, one_a, one_b, two_a, two_b, core, lengths = parts
    one = _product(one_a, one_b, None) if one is None else one
    two = _product(two_a, two_b, core) if two is None else two
    if two.ndim == 4:
        one = one.unsqueeze(2).unsqueeze(2)
    return _compared(torch.kron(one, two), shape, lengths)


def _glora(parts: Sequence[Any], shape: Shape) -> str:
    a1, a2, b1, b2, _, lengths = parts
    old = b2.shape[1] == b1.shape[0] == a1.shape[0] == a2.shape[1]
    new = b2.shape[0] == b1.shape[1] == a1.shape[1] == a2.shape[0]
    if not old and not new:
        return UNEQUAL
    # Where both forms fit, a square layer has the old one.
    old = old and (not new or a2.shape[0] == shape[0] == shape[1])
    a1, a2, b1, b2 = (part.flatten(1) for part in (a1, a2, b1, b2))
    into = (a2, a1) if old else (a1, a2)
    change = torch.mm(b2, b1) if old else torch.mm(b1, b2)
    # What the weight itself is multiplied by has the size of its inputs.
    width = shape[1] if not old else math.prod(shape[1:])
    torch.mm(torch.mm(torch.empty(shape[0], width, device="meta"), into[0]), into[1])
    return _compared(change, shape, lengths)


def _rotation(parts: Sequence[Any], shape: Shape) -> str:
    """OFT and BOFT: square blocks that turn the outputs."""
    blocks, _, alpha, lengths = parts
    if blocks.ndim == 4 and alpha is None:
        return "is a BOFT without an alpha, which ComfyUI cannot apply"
    count, size, other = blocks.shape[-3:]
    if size != other:
        return UNEQUAL
    if count * size != shape[0]:
        return f"is made for {count * size} outputs of a layer, which has {shape[0]} here"
    return _unequal_lengths(lengths, shape)


def _unknown(parts: Sequence[Any], shape: Shape) -> str:
    """A kind of adapter that a newer host has, or another pack."""
    return ""


_FORMULAS: dict[str, Callable[[Sequence[Any], Shape], str]] = {
    "lora": _lora,
    PEFT_DORA: _peft_dora,
    "loha": _loha,
    "lokr": _lokr,
    "glora": _glora,
    "oft": _rotation,
    "boft": _rotation,
}
_LORAS = (_lora, _peft_dora)
