"""What every adapter is, and the settings that all kinds share."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..data import MicroStep
from ..ports import Layer
from .targets import Targets, matches, parse_patterns

Settings = TypeVar("Settings", bound="AdapterSettings")


class Adapter(nn.Module):
    """A trainable module beside one frozen layer: maps its input to what is added to its output."""

    def around(self, base: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The adapted output for x; `base` is the frozen layer."""
        return base(x) + self(x)

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """(down, up) where all it does to a Linear is to add up @ down @ x; None otherwise.

        Two matrices can be applied without forming an output of their own.
        """
        return None

    def penalty(self) -> Tensor | None:
        """A term of its own in the loss, a scalar; None for none."""
        return None

    def begin(self, batch: MicroStep | None) -> None:
        """The samples that the layer sees next, for what depends on them; None when none trains.

        A layer of a text encoder, which encodes the captions of a whole step at once, gets the
        first micro step of that step.
        """

    def tensors(self) -> Mapping[str, Tensor]:
        """What is saved of it, by the suffix that loaders know."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class AdapterSettings:
    """What every kind of adapter is told: how large it is and where it sits."""

    rank: int = 16
    alpha: float = 16.0
    targets: Targets = Targets.ATTENTION
    patterns: str = ""
    """A line each: `pattern = rank : alpha` adds layers or resizes them, `-pattern` leaves out."""
    text_encoder: bool = False
    """Whether the text encoders get adapters too."""
    text_rate: float = 0.5
    """Learning rate of the text encoders' adapters as a share of the others'."""

    def __post_init__(self) -> None:
        self.check_rank()
        self.check_alpha()
        if self.text_rate <= 0:
            raise ValueError(f"text_rate is {self.text_rate}: use more than 0.")
        for pattern in parse_patterns(self.patterns):
            self.sized(pattern.rank, pattern.alpha)

    def __repr__(self) -> str:
        """Rank and alpha, and what is not as it is by default."""
        said = [
            f"{one.name}={getattr(self, one.name)!r}"
            for one in fields(self)
            if one.name in ("rank", "alpha") or getattr(self, one.name) != one.default
        ]
        return f"{type(self).__name__}({', '.join(said)})"

    def check_rank(self) -> None:
        """Raise ValueError for a rank that no layer can have."""
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}: use at least 1.")

    def check_alpha(self) -> None:
        """Raise ValueError for an alpha that scales to nothing."""
        if self.alpha <= 0:
            raise ValueError(f"alpha is {self.alpha}: use more than 0.")

    def matches(self, layer: Layer) -> bool:
        """Whether the preset takes a layer of the diffusion model."""
        return matches(layer, self.targets)

    def sized(self: Settings, rank: int | None, alpha: float | None) -> Settings:
        """These settings with the rank and alpha of a pattern, where it has some."""
        if rank is None and alpha is None:
            return self
        rank = self.rank if rank is None else rank
        # A pattern that says a rank alone keeps the scale, alpha / rank.
        alpha = self.alpha * rank / (self.rank or rank or 1) if alpha is None else alpha
        return replace(self, rank=rank, alpha=alpha, patterns="")

    def build(self, layer: Layer, draw: torch.Generator) -> Adapter:
        """The adapter of a layer; ValueError when the settings do not fit it."""
        raise NotImplementedError

    def export(self, adapter: Adapter) -> Mapping[str, Tensor]:
        """The tensors to save, by the suffix that loaders know."""
        return adapter.tensors()


def check_rank(layer: Layer, rank: int) -> None:
    """Raise ValueError when a rank exceeds what the layer can have."""
    largest = min(layer.shape[0], math.prod(layer.shape[1:]))
    if rank > largest:
        raise ValueError(
            f"rank {rank} is larger than {layer.name}, which has rank {largest} at most: "
            f"use {largest} or less, or leave the layer out with a line -{layer.name} in patterns."
        )


def refuse_groups(layer: Layer, kind: str) -> None:
    """Raise ValueError for a convolution in groups, which some adapters cannot change."""
    if layer.conv is not None and layer.conv.groups > 1:
        raise ValueError(
            f"{layer.name} is a convolution in groups, which {kind} cannot change: choose LoRA, "
            f"or leave it out with a line -{layer.name} in patterns."
        )


@torch.no_grad()
def bias_of(layer: Layer) -> Tensor | None:
    """A copy of the layer's bias in fp32 on the CPU, None for a layer without one."""
    with lent(layer, torch.empty(0)) as (_, bias):
        return None if bias is None else bias.clone()


@contextmanager
def lent(layer: Layer, like: Tensor) -> Generator[tuple[Tensor, Tensor | None], None, None]:
    """Weight and bias of a frozen layer; ValueError where the host keeps none to look at."""
    if layer.lend is None:
        raise ValueError(
            f"{layer.name} has no weight that can be read: choose LoRA, which needs none, or "
            f"leave the layer out with a line -{layer.name} in patterns."
        )
    with layer.lend(like) as weights:
        yield weights
