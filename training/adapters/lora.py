"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): y = W x + s up(down(x))."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data import MicroStep
from ..ports import Layer
from ..randomness import generator
from .base import Adapter, RankedConfig, check_rank
from .factors import narrow, uniform, widen

LOW_RANK_SUFFIXES = ("lora_up.weight", "lora_down.weight", "alpha")
"""The keys of `low_rank_tensors`."""


class Lora(Adapter):
    """The low-rank path of one layer: `down` reads the input, `up` starts at zero."""

    suffixes = LOW_RANK_SUFFIXES

    def __init__(self, layer: Layer, config: LoraConfig, rng: torch.Generator):
        super().__init__()
        self.conv, self.scale, self.dropout = layer.conv, config.scale, config.dropout
        self.down = nn.Parameter(uniform((config.rank, *layer.shape[1:]), rng))
        self.up = nn.Parameter(torch.zeros(layer.shape[0], config.rank))
        self._key = int(torch.randint(2**62, (), generator=rng)) if config.dropout else 0
        self._drop_key: tuple[int, ...] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output, in the dtype of x; the factors stay in fp32."""
        inner = narrow(x, self.down.to(x.dtype), self.conv)
        if self.dropout and self._drop_key is not None:
            inner = inner * self._kept(inner, self._drop_key)
        return widen(inner, self.scale * self.up.to(x.dtype), self.conv)

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """down and the scaled up, for a Linear without dropout."""
        if self.conv is not None or self.dropout:
            return None
        return self.down, self.up if self.scale == 1 else self.scale * self.up

    def begin(self, batch: MicroStep | None) -> None:
        """Choose what is dropped; a block that is recomputed drops the same."""
        # Keyed by the first sample as well, so that parts of a batch do not all drop the same.
        place = (batch.place,) if batch is not None and batch.place else ()
        self._drop_key = None if batch is None else (batch.number, *place)

    def _kept(self, inner: Tensor, key: tuple[int, ...]) -> Tensor:
        """Like `inner`: 0 for what is dropped, 1 / (1 - dropout) for the rest.

        Drawn between the factors, where a mask costs a rank's width and not a layer's.
        """
        seed = generator(self._key, "dropout", *key).initial_seed()
        rng = torch.Generator(inner.device).manual_seed(seed)
        kept = torch.rand(inner.shape, generator=rng, device=inner.device) >= self.dropout
        return kept.to(inner.dtype) / (1 - self.dropout)

    def tensors(self) -> Mapping[str, Tensor]:
        """lora_up, lora_down and alpha, as every loader reads them."""
        return low_rank_tensors(self.up, self.down, self.scale)


def low_rank_tensors(up: Tensor, down: Tensor, scale: float) -> dict[str, Tensor]:
    """Factors (out, rank) and (rank, in, *kernel) under the names that every loader knows."""
    return {
        "lora_up.weight": up.reshape(*up.shape, *[1] * (down.ndim - 2)),
        "lora_down.weight": down,
        "alpha": torch.tensor(float(scale * len(down))),
    }


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class LoraConfig(RankedConfig):
    """Settings of LoRA."""

    rank_stabilized: bool = False
    """s = alpha / sqrt(rank) (Kalajdzievski 2023, arXiv 2312.03732) in place of alpha / rank."""
    dropout: float = 0.0
    """Share of the values between the two factors that is dropped in each batch."""

    def __post_init__(self) -> None:
        RankedConfig.__post_init__(self)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: use 0 (off) to less than 1.")

    @property
    def scale(self) -> float:
        """s."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def build(self, layer: Layer, rng: torch.Generator) -> Lora:
        """A LoRA for the layer; ValueError when the rank exceeds what the layer can have."""
        check_rank(layer, self.rank)
        return Lora(layer, self, rng)
