"""LoKr (Yeh et al. 2023, arXiv 2309.14859): a Kronecker product of a small and a larger matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..ports import Layer
from .base import Adapter, RankedConfig, refuse_groups
from .factors import narrow, uniform, widen


class LoKr(Adapter):
    """delta = kron(w1, w2): w1 (o1, i1) starts at zero, w2 (o2, i2, *kernel) whole or factored."""

    suffixes = ("lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "alpha")

    def __init__(self, layer: Layer, config: LoKrConfig, rng: torch.Generator):
        super().__init__()
        refuse_groups(layer, "LoKr")
        self.conv = layer.conv
        (o1, o2), (i1, i2) = (split_size(size, config.factor) for size in layer.shape[:2])
        kernel = layer.shape[2:]
        self.w1 = nn.Parameter(torch.zeros(o1, i1))
        whole = config.rank == 0 or config.rank >= min(o2, i2)
        self.scale = 1.0 if whole else config.alpha / config.rank
        if whole:
            self.w2 = nn.Parameter(uniform((o2, i2, *kernel), rng))
        else:
            self.w2_a = nn.Parameter(uniform((o2, config.rank), rng))
            self.w2_b = nn.Parameter(uniform((config.rank, i2, *kernel), rng))

    @property
    def whole(self) -> bool:
        """Whether w2 is one matrix."""
        return hasattr(self, "w2")

    def forward(self, x: Tensor) -> Tensor:
        """kron(w1, w2) x = w2 X w1' for the input folded into (i1, i2), never the whole product."""
        w1, i1 = self.scale * self.w1.to(x.dtype), self.w1.shape[1]
        if self.conv is None:
            inner = self._small(x.reshape(*x.shape[:-1], i1, -1))
            return torch.einsum("pi,...io->...po", w1, inner).flatten(-2)
        inner = self._small(x.reshape(len(x) * i1, -1, *x.shape[2:]))
        folded = inner.reshape(len(x), i1, *inner.shape[1:])
        return torch.einsum("pi,bi...->bp...", w1, folded).flatten(1, 2)

    def _small(self, x: Tensor) -> Tensor:
        """Apply w2 to each of the i1 parts of the input."""
        if self.whole:
            return narrow(x, self.w2.to(x.dtype), self.conv)
        inner = narrow(x, self.w2_b.to(x.dtype), self.conv)
        return widen(inner, self.w2_a.to(x.dtype), self.conv)

    def tensors(self) -> Mapping[str, Tensor]:
        """lokr_w1 and lokr_w2, or lokr_w2_a, lokr_w2_b and alpha, as LyCORIS names them."""
        if not self.whole:
            flat = self.w2_b.flatten(1)
            alpha = torch.tensor(float(self.scale * len(flat)))
            named = {"lokr_w2_a": self.w2_a, "lokr_w2_b": flat, "alpha": alpha}
            return {"lokr_w1": self.w1, **named}
        # For kernels with one or three axes the host expects a product of plain matrices.
        plain = self.w2.ndim not in (2, 4)
        return {"lokr_w1": self.w1, "lokr_w2": self.w2.flatten(1) if plain else self.w2}


def split_size(size: int, factor: int) -> tuple[int, int]:
    """(small, large) with small * large = size: the largest divisor up to `factor` and the root."""
    limit = min(factor if factor > 0 else size, int(size**0.5))
    small = max(d for d in range(1, limit + 1) if size % d == 0)
    return small, size // small


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class LoKrConfig(RankedConfig):
    """Settings of LoKr."""

    rank: int = 0
    """Rank of w2; 0 trains it whole."""
    alpha: float = 1.0
    factor: int = 8
    """Size of w1; -1 splits as evenly as possible, which makes the smallest file."""

    def __post_init__(self) -> None:
        if self.factor < 1 and self.factor != -1:
            raise ValueError(f"factor is {self.factor}: use 1 or more, or -1 for the smallest.")
        RankedConfig.__post_init__(self)

    def check_rank(self) -> None:
        """A rank of 0 means a whole w2."""
        if self.rank < 0:
            raise ValueError(f"rank is {self.rank}: use 0 (w2 whole) or more.")

    def build(self, layer: Layer, rng: torch.Generator) -> LoKr:
        """A LoKr for the layer; ValueError for a convolution in groups."""
        return LoKr(layer, self, rng)
