"""LoRA and DoRA layers as peft and diffusers name them: `unet.<module>.lora_A.weight`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .generic import KOHYA_FAMILIES, diffusers_module

UNET = "unet."
MAGNITUDE = "lora_magnitude_vector"
"""The lengths of a DoRA, which divide W + s B A; those under `dora_scale` divide W by itself."""
FACTORS = ("lora_A.weight", "lora_B.weight", MAGNITUDE)
_MAGNITUDE = re.compile(rf"\.{MAGNITUDE}(?:\.\w+){{0,2}}$")


def magnitude_layer(key: str) -> str:
    """The layer whose lengths are under a key, "" for any other tensor."""
    found = _MAGNITUDE.search(key)
    return key[: found.start()] if found else ""


def to_peft(layers: Mapping[str, Mapping[str, Tensor]], family: str) -> dict[str, Tensor]:
    """Layers of the host's UNet, by their dotted names, under diffusers' names.

    ValueError for families whose modules have other names in diffusers than a UNet's.
    """
    if family not in KOHYA_FAMILIES:
        raise ValueError(
            f"The names that diffusers has for the layers of {family or 'this model'} are not "
            "known: such a file can be written for SD1.x, SD2 and SDXL."
        )
    return {
        f"{UNET}{diffusers_module(name)}.{suffix}": factors[suffix]
        for name, factors in layers.items()
        for suffix in FACTORS
        if suffix in factors
    }
