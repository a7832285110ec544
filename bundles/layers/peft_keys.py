"""PEFT's LoRA and DoRA: the names of layers (`unet.<module>.lora_A.weight`) and their alphas."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from .generic import KOHYA_FAMILIES, diffusers_module

Config = Mapping[str, object]
"""A LoraConfig as PEFT writes it to JSON"""

UNET = "unet."
MAGNITUDE = "lora_magnitude_vector"
"""Lengths of a DoRA relative to W + s B A; those under `dora_scale` are relative to W alone"""
CONFIGS = "lora_adapter_metadata"
"""The header field in which diffusers keeps the configuration of each part of a pipeline"""
_MAX_CONFIG = 2**20
_WORDS = re.compile(r"\^?[\w.]+")
_MAGNITUDE = re.compile(rf"\.{MAGNITUDE}(?:\.\w+){{0,2}}$")


def magnitude_layer(key: str) -> str:
    """The layer whose lengths are under a key, "" for any other tensor."""
    suffix = _MAGNITUDE.search(key)
    return key[: suffix.start()] if suffix else ""


def to_peft(layers: Mapping[str, Mapping[str, Tensor]], family: str) -> dict[str, Tensor]:
    """Layers of the host's UNet, by their dotted names, under diffusers' names.

    ValueError for families whose diffusion model is not a UNet.
    """
    if family not in KOHYA_FAMILIES:
        raise ValueError(
            f"How diffusers names the layers of {family or 'this model'} is not known: such a file "
            "can be written for SD1.x, SD2 and SDXL."
        )
    return {
        f"{UNET}{diffusers_module(name)}.{suffix}": tensor
        for name, factors in layers.items()
        for suffix, tensor in factors.items()
    }


def configs(metadata: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """diffusers' configurations in a header, by the part of a pipeline that the keys begin with."""
    text = metadata.get(CONFIGS, "")
    try:
        parsed: object = json.loads(text) if len(text) < _MAX_CONFIG else None
    except (ValueError, RecursionError):
        return {}
    by_part: dict[str, dict[str, object]] = {}
    for key, value in cast("dict[str, object]", parsed if isinstance(parsed, dict) else {}).items():
        part, _, name = key.partition(".")
        by_part.setdefault(part, {})[name] = value
    return by_part


def layer_alpha(config: Config, module: str, rank: int) -> Tensor | None:
    """A layer's alpha; PEFT scales by alpha / rank, rank-stabilized LoRA by alpha / sqrt(rank).

    `module` is the dotted name within its part, which `alpha_pattern` may single out. The rank is
    that of the tensors, so `rank_pattern` adds nothing.
    """
    alpha = _patterns(config).get(_fitting(config, module), config.get("lora_alpha"))
    if alpha is None:
        return None
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not _is_finite(alpha):
        raise ValueError(
            f"the alpha of its layer {module[:100]} is not a number: write the file anew with one."
        )
    return torch.tensor(float(alpha) * (rank**0.5 if config.get("use_rslora") else 1.0))


def _is_finite(alpha: float) -> bool:
    try:
        return math.isfinite(float(alpha))
    except OverflowError:
        return False


def _fitting(config: Config, module: str) -> str:
    """The first pattern for a module: the end of its name or, after `^`, all of it."""
    for pattern in _patterns(config):
        words = pattern.removeprefix("^")
        if module == words or (pattern == words and module.endswith(f".{words}")):
            return pattern
    return ""


def _patterns(config: Config) -> dict[str, object]:
    """`alpha_pattern`, whose keys are regular expressions to PEFT; a stranger's may never end."""
    value = config.get("alpha_pattern")
    patterns = cast("dict[str, object]", value if isinstance(value, dict) else {})
    for pattern in patterns:
        if not _WORDS.fullmatch(pattern):
            raise ValueError(
                f"its alpha_pattern names layers by the expression {pattern[:100]!r}, and only "
                "plain names are read: write the file anew with the layers' names."
            )
    return patterns
