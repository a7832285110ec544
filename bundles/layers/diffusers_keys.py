"""LoRA keys of diffusers, renamed to those that the host's LoRA loader knows."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .family import guess_family
from .generic import KOHYA_FAMILIES, UNET, UNET_KOHYA, generic_key, unet_module
from .peft_keys import FACTOR, MAGNITUDE, PEFT_PREFIX, UNET_BLOCK

_PART = re.compile(r"(unet|text_encoder(?:_[12])?)\.")
# The host's own words for a UNet's layers, as OneTrainer's OMI files have them.
_OWN_UNET = re.compile(
    r"^(?:unet\.)?(?:(?:input|output)_blocks\.\d+|middle_block)\.\d\."
    r"|^unet\.(?:time_embed|label_emb\.0|out)\.[02]\."
)
_PROCESSOR = re.compile(r"\.processor\.")
_OTHER = re.compile(r"\.(alpha|dora_scale|lora_magnitude_vector(?:\.\w+)?(?:\.weight)?)$")
# transformers 5 has CLIP's layers without the word `text_model`, which all loaders expect.
_SHORT = re.compile(r"^(text_encoder(?:_[12])?\.)(?=encoder\.layers\.\d)")


def is_diffusers_lora(tensors: Mapping[str, Tensor]) -> bool:
    """Whether every key names a factor of a module that diffusers' pipelines have."""
    if not tensors or any(key.startswith(PEFT_PREFIX) for key in tensors):
        return False
    return all(FACTOR.search(key) or _OTHER.search(key) for key in tensors) and all(
        _PART.match(key) or _PROCESSOR.search(key) or _OWN_UNET.match(key) for key in tensors
    )


def to_known_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give layers of SD1.5, SD2 and SDXL their generic names; keys of other families stay.

    The UNets of all three have the same layout, so a UNet's layers are renamed even if the tensors
    do not show which of the three it is.
    """
    family = guess_family(tensors, {})
    tensors = {_SHORT.sub(r"\1text_model.", key): tensor for key, tensor in tensors.items()}
    if family not in KOHYA_FAMILIES and not any(map(_is_unet, tensors)):
        return dict(tensors)
    renamed = {_renamed(key, family): tensor for key, tensor in tensors.items()}
    if len(renamed) < len(tensors):
        raise ValueError("the LoRA holds a layer under two names, so one would be lost.")
    return renamed


def layer_of(key: str) -> str:
    """The layer that a LoRA's tensor belongs to, "" for a tensor of anything else."""
    suffix = FACTOR.search(key) or _OTHER.search(key)
    return key[: suffix.start()] if suffix else ""


def _is_unet(key: str) -> bool:
    return bool(UNET_BLOCK.search(key) or _OWN_UNET.search(key))


def _renamed(key: str, family: str) -> str:
    factor = FACTOR.search(key)
    suffix = factor or _OTHER.search(key)
    if suffix is None:
        return key
    end = f"lora_{'up' if factor[1] else 'down'}.weight" if factor else suffix[1]
    if end.startswith(MAGNITUDE):
        end = MAGNITUDE
    kohya = f"{_kohya_stem(key[: suffix.start()], family)}.{end}"
    if family in KOHYA_FAMILIES:
        generic = generic_key(kohya, family)
        return key if generic == kohya else generic
    # The text encoders keep diffusers' own names, which the host knows.
    stem = kohya.partition(".")[0].removeprefix(UNET_KOHYA)
    module = unet_module(stem) if _is_unet(key) else ""
    return f"{UNET}{module}.{end}" if module else key


def _kohya_stem(module: str, family: str) -> str:
    """Kohya's name of a module, which `generic_key` understands."""
    part = _PART.match(module)
    name = module[part.end() :] if part else module
    name = name.replace(".processor.", ".")
    if re.search(r"\.to_out$", name):
        name += ".0"
    prefix = UNET_KOHYA
    if part and part[1] != "unet":
        second = "2" if part[1].endswith("_2") else "1"
        prefix = f"lora_te{second}_" if family == "sdxl" else "lora_te_"
    return prefix + name.replace(".", "_")
