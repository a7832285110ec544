"""OFT (Qiu et al. 2023, arXiv 2306.07280): blocks of a weight's rows are rotated together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..ports import Layer
from .base import Adapter, RankedConfig, bias_of, refuse_groups
from .factors import without_bias
from .lokr import split_size


class Oft(Adapter):
    """W' = R' W with R block-diagonal and orthogonal, by Cayley's transform of skew blocks."""

    suffixes = ("oft_blocks", "alpha")

    def __init__(self, layer: Layer, config: OftConfig):
        super().__init__()
        refuse_groups(layer, "OFT")
        self.conv, self.constraint = layer.conv, config.alpha
        size, count = split_size(layer.shape[0], config.rank)
        self.blocks = nn.Parameter(torch.zeros(count, size, size))
        self.register_buffer("bias", bias_of(layer), persistent=False)

    bias: Tensor | None

    def turn(self) -> Tensor:
        """R' - I of every block, (blocks, size, size), with R = (I + Q) (I - Q)^-1.

        R - I = 2 Q (I - Q)^-1 is 0 to the last bit where Q is. A constraint caps |Q|.
        """
        # torch has no solver in bf16.
        blocks = self.blocks.to(torch.promote_types(self.blocks.dtype, torch.float32))
        q = blocks - blocks.mT
        if self.constraint:
            length = q.square().sum().clamp_min(1e-24).sqrt()
            q = q * (self.constraint / length).clamp_max(1.0)
        eye = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
        # X (I - Q) = 2 Q, transposed, with Q' = -Q: (I + Q) X' = -2 Q.
        # I + Q is always invertible, so no check has to wait for the device.
        return cast("Tensor", torch.linalg.solve_ex(eye + q, -2 * q)[0])  # pyright: ignore

    def around(self, base: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The layer's output with its rows rotated; the bias stays."""
        y = base(x)
        channels = -1 if self.conv is None else 1
        turn = self.turn().to(y.dtype)
        rows = without_bias(y, self.bias, self.conv).movedim(channels, -1)
        split = rows.reshape(*rows.shape[:-1], *turn.shape[:2])
        moved = torch.einsum("kmn,...kn->...km", turn, split).flatten(-2)
        return y + moved.movedim(-1, channels)

    def tensors(self) -> Mapping[str, Tensor]:
        """oft_blocks, and the constraint as alpha; 0 is no constraint."""
        return {"oft_blocks": self.blocks, "alpha": torch.tensor(float(self.constraint))}


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class OftConfig(RankedConfig):
    """Settings of OFT."""

    rank: int = 16
    """Size of the rotated blocks: the largest divisor of a layer's outputs up to this."""
    alpha: float = 0.0
    """Cap on the norm of all skew blocks of a layer; 0 is no cap."""

    def check_alpha(self) -> None:
        """An alpha of 0 means no constraint."""
        if self.alpha < 0:
            raise ValueError(f"alpha is {self.alpha}: use 0 (no constraint) or more.")

    def build(self, layer: Layer, rng: torch.Generator) -> Oft:
        """An OFT for the layer."""
        return Oft(layer, self)
