"""LoRA keys of diffusers and PEFT under the names that the host's LoRA loader knows."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .family import guess_family
from .keys import KOHYA_FAMILIES, generic_key
from .peft_alphas import Config, configs, layer_alpha

_PART = re.compile(r"(unet|text_encoder(?:_[12])?)\.")
_PROCESSOR = re.compile(r"\.processor\.")
_BLOCK = re.compile(r"^(?:unet\.)?(?:down_blocks\.\d|up_blocks\.\d|mid_block)\.")
_FACTOR = re.compile(
    r"(?:\.lora_A(?:\.\w+)?\.weight|[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight"
    r"|\.lora_down\.weight)$|"
    r"(\.lora_B(?:\.\w+)?\.weight|[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight"
    r"|\.lora_up\.weight)$"
)
_OTHER = re.compile(r"\.(alpha|dora_scale|lora_magnitude_vector(?:\.\w+)?(?:\.weight)?)$")
PEFT_PREFIX = "base_model.model."


def is_diffusers_lora(tensors: Mapping[str, Tensor]) -> bool:
    """Whether every key names a factor of a module that diffusers' pipelines have."""
    if not tensors or any(key.startswith(PEFT_PREFIX) for key in tensors):
        return False
    return all(_FACTOR.search(key) or _OTHER.search(key) for key in tensors) and all(
        _PART.match(key) or _PROCESSOR.search(key) for key in tensors
    )


def to_known_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SD1.5's, SD2's and SDXL's layers under the generic names; other families' keys stay.

    The UNets of all three are laid out alike, so theirs are renamed also where the tensors do not
    tell which of them it is.
    """
    family = guess_family(tensors, {})
    if family not in KOHYA_FAMILIES and not any(_BLOCK.search(key) for key in tensors):
        return dict(tensors)
    renamed = {_renamed(key, family): tensor for key, tensor in tensors.items()}
    if len(renamed) < len(tensors):
        raise ValueError("the LoRA holds a layer under two names, so one would be lost.")
    return renamed


def with_alphas(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors, and the alpha that diffusers' header tells of each layer that has none."""
    known, made = configs(metadata), dict(tensors)
    known["text_encoder_1"] = known.get("text_encoder", {})
    for key, tensor in tensors.items():
        part, _, module = key.partition(".")
        if part not in known and _BLOCK.match(key):
            part, module = "unet", key
        _add_alpha(made, key, tensor, known.get(part, {}), module)
    return made


def from_peft(tensors: Mapping[str, Tensor], config: Config, part: str) -> dict[str, Tensor]:
    """A PEFT adapter of one part of a pipeline (`unet`, `text_encoder_1`) as diffusers names it."""
    made: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        module = key.removeprefix(PEFT_PREFIX)
        made[f"{part}.{module}"] = tensor
        _add_alpha(made, f"{part}.{module}", tensor, config, module)
    return made


def _add_alpha(
    made: dict[str, Tensor], key: str, tensor: Tensor, config: Config, module: str
) -> None:
    factor = _FACTOR.search(key)
    if not config or factor is None or factor[1]:
        return
    name, end = f"{key[: factor.start()]}.alpha", len(key) - factor.start()
    layer = module[:-end].replace(".processor.", ".")
    alpha = layer_alpha(config, layer, tensor.shape[0] if tensor.ndim else 1)
    if name not in made and alpha is not None:
        made[name] = alpha


def _renamed(key: str, family: str) -> str:
    factor, other = _FACTOR.search(key), _OTHER.search(key)
    found = factor or other
    if family not in KOHYA_FAMILIES:
        # The host knows the encoders of such a file by diffusers' own names.
        family = "sd15" if _BLOCK.search(key) else ""
    if found is None or not family:
        return key
    end = f"lora_{'up' if factor[1] else 'down'}.weight" if factor else found[1]
    if end.startswith("lora_magnitude"):
        end = "dora_scale"
    return generic_key(f"{_stem(key[: found.start()], family)}.{end}", family)


def _stem(module: str, family: str) -> str:
    """Kohya's name of a module, which `generic_key` understands."""
    part = _PART.match(module)
    name = module[part.end() :] if part else module
    name = name.replace(".processor.", ".")
    if re.search(r"\.to_out$", name):
        name += ".0"
    prefix = "lora_unet_"
    if part and part[1] != "unet":
        second = "2" if part[1].endswith("_2") else "1"
        prefix = f"lora_te{second}_" if family == "sdxl" else "lora_te_"
    return prefix + name.replace(".", "_")
