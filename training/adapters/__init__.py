"""Adapters: small trainable modules beside frozen layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..ports import Layer
from ..randomness import generator
from .base import Adapter


class AdapterConfig(Protocol):
    """The settings of one kind of adapter, which build it for a layer."""

    def matches(self, layer: Layer) -> bool:
        """Whether the layer gets an adapter."""
        ...

    def build(self, layer: Layer, draw: torch.Generator) -> Adapter:
        """The adapter of a layer; ValueError when the settings do not fit it."""
        ...

    def export(self, adapter: Adapter) -> Mapping[str, Tensor]:
        """The tensors to save, by the suffix that loaders know."""
        ...


def build_adapters(config: AdapterConfig, layers: Sequence[Layer], seed: int) -> dict[str, Adapter]:
    """An adapter for every layer that the configuration matches, each drawn from its own seed."""
    chosen = [layer for layer in layers if config.matches(layer)]
    if not chosen:
        raise ValueError("The adapter matches no layer of this model: choose other targets.")
    return {
        layer.name: config.build(layer, generator(seed, "adapter", layer.name)) for layer in chosen
    }


def export_adapters(
    config: AdapterConfig, adapters: Mapping[str, Adapter], prefix: str
) -> dict[str, Tensor]:
    """All tensors to save, under `<prefix>.<layer>.<suffix>`, detached and on the CPU."""
    return {
        f"{prefix}.{name}.{suffix}": tensor.detach().to("cpu", copy=True)
        for name, adapter in adapters.items()
        for suffix, tensor in config.export(adapter).items()
    }
