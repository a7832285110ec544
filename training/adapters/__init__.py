"""Adapters: small trainable modules beside frozen layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..ports import Layer
from ..randomness import generator
from .base import Adapter, AdapterSettings
from .targets import MODEL, TEXT, Choice, choose

__all__ = [
    "MODEL",
    "TEXT",
    "Adapter",
    "AdapterConfig",
    "build_adapters",
    "build_chosen",
    "choose_layers",
    "export_adapters",
]

AdapterConfig = AdapterSettings
"""The settings of one kind of adapter, which build it for a layer."""


def choose_layers(
    config: AdapterConfig, layers: Sequence[Layer], text_layers: Sequence[Layer] = ()
) -> dict[str, list[Choice]]:
    """The layers of the diffusion model and of the text encoders that get an adapter."""
    every = {MODEL: layers} | ({TEXT: text_layers} if config.text_encoder else {})
    return choose(every, config.targets, config.patterns)


def build_chosen(
    config: AdapterConfig, chosen: Sequence[Choice], seed: int, part: str = MODEL
) -> dict[str, Adapter]:
    """An adapter for every chosen layer by its name, each drawn from its own seed."""
    purpose = "adapter" if part == MODEL else f"{part} adapter"
    return {
        choice.layer.name: config.sized(choice.rank, choice.alpha).build(
            choice.layer, generator(seed, purpose, choice.layer.name)
        )
        for choice in chosen
    }


def build_adapters(config: AdapterConfig, layers: Sequence[Layer], seed: int) -> dict[str, Adapter]:
    """An adapter for every layer of the diffusion model that the configuration takes."""
    return build_chosen(config, choose_layers(config, layers)[MODEL], seed)


def export_adapters(
    config: AdapterConfig, adapters: Mapping[str, Adapter], prefix: str
) -> dict[str, Tensor]:
    """All tensors to save, under `<prefix>.<layer>.<suffix>`, detached and on the CPU."""
    return {
        f"{prefix}.{name}.{suffix}": tensor.detach().to("cpu", copy=True)
        for name, adapter in adapters.items()
        for suffix, tensor in config.export(adapter).items()
    }
