"""Frozen layers of every shape in fp64, and what they put out with a changed weight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pack.training.adapters import AdapterConfig
from pack.training.adapters.base import Adapter
from pack.training.adapters.factors import apply_weight
from pack.training.ports import Convolution, Layer


def module(kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A layer with a bias; convolutions have stride, padding, dilation or groups."""
    torch.manual_seed(3)
    made = {
        "linear": lambda: nn.Linear(12, 8),
        "conv": lambda: nn.Conv2d(6, 8, 3, stride=2, padding=1),
        "dilated": lambda: nn.Conv2d(6, 8, (3, 1), padding=(2, 0), dilation=2),
        "groups": lambda: nn.Conv2d(6, 8, 3, padding=1, groups=2),
        "conv1d": lambda: nn.Conv1d(6, 8, 3, stride=2, padding=1),
        "conv3d": lambda: nn.Conv3d(6, 8, 3, padding=1),
        "point": lambda: nn.Conv2d(6, 8, 1),
    }[kind]()
    return made.to(dtype).requires_grad_(False)


SHAPES = ("linear", "conv", "dilated", "groups", "conv1d", "conv3d", "point")
INPUTS = {"linear": (2, 5, 12), "conv1d": (2, 6, 7), "conv3d": (2, 6, 3, 4, 5)}


def inputs(kind: str) -> Tensor:
    draw = torch.Generator().manual_seed(4)
    return torch.randn(INPUTS.get(kind, (2, 6, 5, 6)), generator=draw, dtype=torch.float64)


def as_layer(frozen: nn.Module, name: str = "block.attn1.to_q") -> Layer:
    @contextmanager
    def lend(like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        yield frozen.weight.to(like), frozen.bias.to(like)

    conv = None
    if not isinstance(frozen, nn.Linear):
        conv = Convolution(
            stride=frozen.stride,
            padding=frozen.padding,
            dilation=frozen.dilation,
            groups=frozen.groups,
        )
    return Layer(
        name=name,
        shape=tuple(frozen.weight.shape),
        conv=conv,
        weight=frozen.weight.float,
        lend=lend,
    )


@dataclass(frozen=True)
class Adapted:
    """A frozen layer with an adapter in fp64, as if it had trained."""

    frozen: nn.Module
    layer: Layer
    adapter: Adapter
    x: Tensor

    def output(self) -> Tensor:
        return self.adapter.around(self.frozen, self.x)

    def with_weight(self, weight: Tensor) -> Tensor:
        """The layer's output with another weight and its own bias."""
        return apply_weight(self.x, weight, self.layer.conv) + self.frozen(self.x * 0)


def fresh(config: AdapterConfig, kind: str, dtype: torch.dtype = torch.float64) -> Adapted:
    """An adapter at its start, in `dtype` from the first number on."""
    frozen = module(kind, dtype)
    torch.set_default_dtype(dtype)
    try:
        layer = as_layer(frozen)
        adapter = config.build(layer, torch.Generator().manual_seed(2)).to(dtype)
    finally:
        torch.set_default_dtype(torch.float32)
    return Adapted(frozen, layer, adapter, inputs(kind).to(dtype))


def trained(config: AdapterConfig, kind: str) -> Adapted:
    """The same after its numbers were moved."""
    made = fresh(config, kind)
    draw = torch.Generator().manual_seed(5)
    for parameter in made.adapter.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    return made
