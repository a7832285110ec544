"""Adapters: small trainable modules on frozen layers; choosing layers, building and saving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..ports import Layer
from ..randomness import generator
from .base import Adapter, AdapterConfig
from .targets import MODEL, TEXT, Choice, choose, parse_patterns

__all__ = [
    "MODEL",
    "TEXT",
    "Adapter",
    "AdapterConfig",
    "build_adapters",
    "build_chosen",
    "census",
    "choose_layers",
    "export_adapters",
]

_PARTS = {MODEL: "diffusion model", TEXT: "text encoders"}


def choose_layers(
    config: AdapterConfig, layers: Sequence[Layer], text_layers: Sequence[Layer] = ()
) -> dict[str, list[Choice]]:
    """The layers of the diffusion model and of the text encoders that get an adapter."""
    every = {MODEL: layers} | ({TEXT: text_layers} if config.text_encoder else {})
    return choose(every, config.targets, config.patterns)


def build_chosen(
    config: AdapterConfig, chosen: Sequence[Choice], seed: int, part: str = MODEL
) -> dict[str, Adapter]:
    """An adapter for each chosen layer, by name, each initialized from its own seed."""
    purpose = "adapter" if part == MODEL else f"{part} adapter"
    adapters: dict[str, Adapter] = {}
    for choice in chosen:
        layer, pattern = choice.layer, choice.pattern
        sized = config if pattern is None else config.sized(pattern)
        adapters[layer.name] = sized.build(layer, generator(seed, purpose, layer.name))
    return adapters


def build_adapters(config: AdapterConfig, layers: Sequence[Layer], seed: int) -> dict[str, Adapter]:
    """An adapter for every layer of the diffusion model that the settings select."""
    return build_chosen(config, choose_layers(config, layers)[MODEL], seed)


def export_adapters(adapters: Mapping[str, Adapter], prefix: str) -> dict[str, Tensor]:
    """Copies on the CPU of all tensors to save, under `<prefix>.<layer>.<suffix>`."""
    return {
        f"{prefix}.{name}.{suffix}": tensor.detach().to("cpu", copy=True)
        for name, adapter in adapters.items()
        for suffix, tensor in adapter.tensors().items()
    }


def census(adapters: Mapping[str, Mapping[str, Adapter]], patterns: str) -> list[str]:
    """A line for each part, followed by one for each pattern that chose layers in it."""
    lines: list[str] = []
    for part, members in adapters.items():
        if not members:
            continue
        lines.append(f"{_PARTS[part]}: {_count(list(members.values()))}")
        lines += _by_pattern(part, members, patterns)
    return lines


def _count(adapters: list[Adapter]) -> str:
    parameters = sum(p.numel() for adapter in adapters for p in adapter.parameters())
    noun = "layer" if len(adapters) == 1 else "layers"
    return f"{len(adapters)} {noun} adapted with {parameters:,} parameters"


def _by_pattern(part: str, members: Mapping[str, Adapter], patterns: str) -> list[str]:
    parsed = parse_patterns(patterns)
    if not parsed:
        return []
    chosen: dict[str, list[Adapter]] = {}
    for name, adapter in members.items():
        hits = [one.text for one in parsed if one.find.found_in(f"{part}.{name}")]
        chosen.setdefault(hits[0] if hits else "targets", []).append(adapter)
    return [f"  {text}: {_count(adapters)}" for text, adapters in chosen.items()]
