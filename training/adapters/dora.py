"""DoRA (Liu et al. 2024, arXiv 2402.09353, eq. 5): length and direction are separate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from ..ports import Layer
from .base import Adapter, RankedConfig, bias_of, check_rank, lent
from .factors import apply_low_rank, on_channels, uniform, without_bias
from .lora import LOW_RANK_SUFFIXES, low_rank_tensors


class Axis(str, Enum):
    """Whose lengths train: of the weight's columns (the paper) or of its rows (peft, diffusers)."""

    INPUT = "input"
    OUTPUT = "output"


class Dora(Adapter):
    """W' = m (W + s B A) / |W + s B A|, a length m for each input, or output, of the layer.

    The norm is a constant for the gradient (the paper's section 4.3). It follows from |W|^2,
    the products of W with a factor and the small Gram matrices: the change is never formed.
    """

    suffixes = (*LOW_RANK_SUFFIXES, "dora_scale")

    def __init__(self, layer: Layer, config: DoraConfig, rng: torch.Generator):
        super().__init__()
        self.layer, self.conv, self.axis = layer, layer.conv, config.axis
        self.scale = config.alpha / config.rank
        self.down = nn.Parameter(uniform((config.rank, *layer.shape[1:]), rng))
        self.up = nn.Parameter(torch.zeros(layer.shape[0], config.rank))
        square = self._measure()
        self.register_buffer("square", square, persistent=False)
        bias = bias_of(layer) if config.axis is Axis.OUTPUT else None
        self.register_buffer("bias", bias, persistent=False)
        self.magnitude = nn.Parameter(square.sqrt())

    square: Tensor
    """|W|^2 along the axis, which starts as the square of the lengths."""
    bias: Tensor | None

    @torch.no_grad()
    def _measure(self) -> Tensor:
        """|W|^2 of each column (in / groups,) or row (out,)."""
        with lent(self.layer, self.down) as (weight, _):
            return _square(weight, self.axis)

    @torch.no_grad()
    def norm(self) -> Tensor:
        """|W + s B A| along the axis, from W's products with one factor."""
        up, down = self.scale * self.up, self.down.flatten(2) if self.conv else self.down[..., None]
        with lent(self.layer, self.down) as (weight, _):
            weight = weight.flatten(2) if self.conv else weight[..., None]
            # (out, in, kernel) with (rank, in, kernel) and (out, rank)
            if self.axis is Axis.OUTPUT:
                cross = (torch.einsum("oik,rik->or", weight, down) * up).sum(1)
                grown = torch.einsum("rik,sik->rs", down, down)
                added = ((up @ grown) * up).sum(1)
            else:
                cross = torch.einsum("rik,rik->i", torch.einsum("or,oik->rik", up, weight), down)
                added = torch.einsum("rs,rik,sik->i", up.T @ up, down, down)
        return (self.square + 2 * cross + added).clamp_min(1e-30).sqrt()

    def around(self, base: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The output of the layer with W' in place of W."""
        ratio = (self.magnitude / self.norm()).to(x.dtype)
        if self.axis is Axis.INPUT:
            # W' = W diag(ratio) + ..., so the input is scaled and the layer stays as it is.
            groups = self.conv.groups if self.conv else 1
            x = x * on_channels(ratio.repeat(groups), self.conv, x.ndim - 2)
            return base(x) + self(x)
        y = base(x)
        ratio = on_channels(ratio, self.conv, y.ndim - 2)
        return y + (ratio - 1) * without_bias(y, self.bias, self.conv) + ratio * self(x)

    def forward(self, x: Tensor) -> Tensor:
        """s B A x, before the lengths are changed."""
        up = self.scale * self.up
        return apply_low_rank(x, self.down.to(x.dtype), up.to(x.dtype), self.conv)

    def tensors(self) -> Mapping[str, Tensor]:
        """A LoRA and `dora_scale` as the host reads it, 1 on every axis but its own.

        For rows the host divides by |W| and not by |W + s B A|, so the saved lengths are those
        times |W| / |W + s B A|; for columns it divides as the paper does.
        """
        saved = self.magnitude.detach()
        if self.axis is Axis.OUTPUT:
            saved = saved * self.square.sqrt() / self.norm()
        shape = [1] * self.down.ndim
        shape[1 if self.axis is Axis.INPUT else 0] = -1
        return {
            **low_rank_tensors(self.up, self.down, self.scale),
            "dora_scale": saved.reshape(shape),
        }

    def peft_tensors(self) -> Mapping[str, Tensor]:
        """Factors that include the scale, and the trained lengths of the rows.

        peft divides by |W + s B A| itself, where the host's `dora_scale` differs. A DoRA on
        columns has no such form.
        """
        if self.axis is Axis.INPUT:
            return {}
        kernel = [1] * (self.down.ndim - 2)
        lengths = self.magnitude if self.conv is None else self.magnitude.reshape(1, -1, *kernel)
        return {
            "lora_A.weight": self.down,
            "lora_B.weight": (self.scale * self.up).reshape(*self.up.shape, *kernel),
            "lora_magnitude_vector": lengths,
        }


def _square(weight: Tensor, axis: Axis) -> Tensor:
    along = 1 if axis is Axis.INPUT else 0
    others = [place for place in range(weight.ndim) if place != along]
    return weight.square().sum(dim=others)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class DoraConfig(RankedConfig):
    """Settings of DoRA."""

    axis: Axis = Axis.INPUT

    def build(self, layer: Layer, rng: torch.Generator) -> Dora:
        """A DoRA for the layer; ValueError when the rank exceeds what the layer can have."""
        check_rank(layer, self.rank)
        return Dora(layer, self, rng)
