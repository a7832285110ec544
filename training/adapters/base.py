"""The base classes of adapters and of their settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ..data import MicroStep
from ..ports import Layer
from .targets import Pattern, Targets, parse_patterns

Config = TypeVar("Config", bound="AdapterConfig")
Ranked = TypeVar("Ranked", bound="RankedConfig")


class Adapter(nn.Module):
    """A trainable module on a frozen layer: maps its input to what is added to its output."""

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Every key that `tensors` can give; in a file it follows the name of the layer."""

    def around(self, base: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The adapted output for x; `base` is the frozen layer."""
        return base(x) + self(x)

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """(down, up) if it only adds up @ down @ x to the output of a Linear; otherwise None.

        Two matrices can be applied without forming an output of their own.
        """
        return None

    def penalty(self) -> Tensor | None:
        """A scalar that is added to the loss, if the kind has one."""
        return None

    def begin(self, batch: MicroStep | None) -> None:
        """The samples that the layer sees next, for what depends on them; None outside training.

        A layer of a text encoder, which encodes the captions of a whole step at once, gets the
        first micro step of that step.
        """

    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors to save, by suffix; loaders that know a suffix can apply its tensor."""
        raise NotImplementedError

    def peft_tensors(self) -> Mapping[str, Tensor]:
        """The same change in PEFT's form, if PEFT cannot read `tensors`; usually empty."""
        return {}


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class AdapterConfig:
    """The settings that all kinds share: which layers are adapted. Each kind adds its own.

    The names of the class and its fields are part of a run's identity, so they never change.
    Every field has a default.
    """

    always_shown: ClassVar[tuple[str, ...]] = ()
    """Fields that `repr` shows even if they have their defaults."""
    targets: Targets = Targets.ATTENTION
    patterns: str = ""
    """Lines such as `pattern = rank : alpha`, which adds or resizes layers, or `-pattern`."""
    text_encoder: bool = False
    """Whether the text encoders are adapted too."""
    text_rate: float = 0.5
    """Learning rate of the text encoders' adapters as a share of the others'."""

    def __post_init__(self) -> None:
        if self.text_rate <= 0:
            raise ValueError(f"text_rate is {self.text_rate}: use more than 0.")
        for pattern in parse_patterns(self.patterns):
            self.sized(pattern)

    def __repr__(self) -> str:
        """The fields that are always shown, and those that differ from their defaults."""
        changed = (f.name for f in fields(self) if getattr(self, f.name) != f.default)
        names = dict.fromkeys([*self.always_shown, *changed])
        return f"{type(self).__name__}({', '.join(f'{n}={getattr(self, n)!r}' for n in names)})"

    def sized(self: Config, pattern: Pattern) -> Config:
        """These settings as a pattern changes them for its layers.

        Raises ValueError if the pattern gives a size and this kind of adapter has none.
        """
        if pattern.gives_size:
            raise ValueError(
                f'The line "{pattern.text}" of patterns gives a rank, and this kind of adapter '
                'has none: leave out the "=" and what follows it.'
            )
        return self

    def reads_singular_values(self) -> bool:
        """Whether `build` needs singular values of frozen weights, which are worth caching."""
        return False

    def build(self, layer: Layer, rng: torch.Generator) -> Adapter:
        """Build the adapter of a layer; ValueError if the settings do not fit it."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class RankedConfig(AdapterConfig):
    """Settings of kinds that have a rank, which patterns can change for single layers."""

    always_shown = ("rank", "alpha")
    rank: int = 16
    alpha: float = 16.0

    def __post_init__(self) -> None:
        self.check_rank()
        self.check_alpha()
        AdapterConfig.__post_init__(self)

    def check_rank(self) -> None:
        """Raise ValueError for a rank that no layer can have."""
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}: use at least 1.")

    def check_alpha(self) -> None:
        """Raise ValueError for an alpha that scales to nothing."""
        if self.alpha <= 0:
            raise ValueError(f"alpha is {self.alpha}: use more than 0.")

    def sized(self: Ranked, pattern: Pattern) -> Ranked:
        """These settings with the rank and alpha that a pattern gives, if it does."""
        if not pattern.gives_size:
            return self
        rank = self.rank if pattern.rank is None else pattern.rank
        # A pattern that gives only a rank keeps the scale, alpha / rank.
        scaled = self.alpha * rank / (self.rank or rank or 1)
        alpha = scaled if pattern.alpha is None else pattern.alpha
        return replace(self, rank=rank, alpha=alpha, patterns="")


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
    """A copy of the layer's bias in fp32 on the CPU, or None."""
    with lent(layer, torch.empty(0)) as (_, bias):
        return None if bias is None else bias.clone()


@contextmanager
def lent(layer: Layer, like: Tensor) -> Generator[tuple[Tensor, Tensor | None], None, None]:
    """Weight and bias of a frozen layer; ValueError if the host cannot give them."""
    if layer.lend is None:
        raise ValueError(
            f"{layer.name} has no weight that can be read: choose LoRA, which needs none, or "
            f"leave the layer out with a line -{layer.name} in patterns."
        )
    with layer.lend(like) as weights:
        yield weights
