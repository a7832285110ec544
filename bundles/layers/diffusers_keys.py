"""LoRA keys of diffusers and PEFT, renamed to those that the host's LoRA loader knows."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .family import guess_family
from .generic import KOHYA_FAMILIES, UNET, UNET_KOHYA, generic_key, unet_module
from .peft_keys import MAGNITUDE, Config, configs, layer_alpha

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
# transformers 5 has CLIP's layers without the word `text_model`, which all loaders expect.
_SHORT = re.compile(r"^(text_encoder(?:_[12])?\.)(?=encoder\.layers\.\d)")
_CLIP = re.compile(r"(?:text_model\.)?encoder\.layers\.\d+\.(?:self_attn|mlp)\.")
PEFT_PREFIX = "base_model.model."
_CLIP_G = 1280


def is_diffusers_lora(tensors: Mapping[str, Tensor]) -> bool:
    """Whether every key names a factor of a module that diffusers' pipelines have."""
    if not tensors or any(key.startswith(PEFT_PREFIX) for key in tensors):
        return False
    return all(_FACTOR.search(key) or _OTHER.search(key) for key in tensors) and all(
        _PART.match(key) or _PROCESSOR.search(key) for key in tensors
    )


def to_known_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give layers of SD1.5, SD2 and SDXL their generic names; keys of other families stay.

    The UNets of all three have the same layout, so a UNet's layers are renamed even if the tensors
    do not show which of the three it is.
    """
    family = guess_family(tensors, {})
    tensors = {_SHORT.sub(r"\1text_model.", key): tensor for key, tensor in tensors.items()}
    if family not in KOHYA_FAMILIES and not any(_BLOCK.search(key) for key in tensors):
        return dict(tensors)
    renamed = {_renamed(key, family): tensor for key, tensor in tensors.items()}
    if len(renamed) < len(tensors):
        raise ValueError("the LoRA holds a layer under two names, so one would be lost.")
    return renamed


def with_alphas(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """Add the alphas in diffusers' header for layers that have none of their own."""
    part_configs, lora = configs(metadata), dict(tensors)
    part_configs["text_encoder_1"] = part_configs.get("text_encoder", {})
    for key, tensor in tensors.items():
        part, _, module = key.partition(".")
        if part not in part_configs and _BLOCK.match(key):
            part, module = "unet", key
        _add_alpha(lora, key, tensor, part_configs.get(part, {}), module)
    return lora


def from_peft(tensors: Mapping[str, Tensor], config: Config, part: str = "") -> dict[str, Tensor]:
    """A PEFT adapter for one part of a pipeline (`unet`, `text_encoder_1`) in diffusers' names.

    Without a part, the layers decide. Transformers keep PEFT's prefix, since each family's loader
    expects a different one. ValueError for adapters other than LoRA and DoRA.
    """
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise ValueError(
            f"it is PEFT's {str(kind)[:20]}, and of PEFT only LoRA and DoRA are read: train either."
        )
    # The host's name for the first encoder has no number.
    part = {"text_encoder_1": "text_encoder"}.get(part, part) or _part_of(tensors)
    lora: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        module = key.removeprefix(PEFT_PREFIX)
        name = f"{part}.{module}" if part else key
        lora[name] = tensor
        _add_alpha(lora, name, tensor, config, module)
    return lora


def _part_of(tensors: Mapping[str, Tensor]) -> str:
    """The part of a pipeline that has these layers, "" for a transformer."""
    layers = {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in tensors.items()}
    if any(map(_BLOCK.match, layers)):
        return "unet"
    if not any(map(_CLIP.match, layers)):
        return ""
    down = [t.shape for key, t in layers.items() if re.search(r"(?:_proj|fc1)\.lora_A\b", key)]
    return "text_encoder_2" if any(shape[1:] == (_CLIP_G,) for shape in down) else "text_encoder"


def layer_of(key: str) -> str:
    """The layer that a LoRA's tensor belongs to, "" for a tensor of anything else."""
    suffix = _FACTOR.search(key) or _OTHER.search(key)
    return key[: suffix.start()] if suffix else ""


def lacks_alpha(lora: Mapping[str, Tensor]) -> bool:
    """Whether any layer has factors but no alpha."""
    layers = {key[: factor.start()] for key in lora if (factor := _FACTOR.search(key))}
    return any(f"{layer}.alpha" not in lora for layer in layers)


def _add_alpha(
    lora: dict[str, Tensor], key: str, tensor: Tensor, config: Config, module: str
) -> None:
    factor = _FACTOR.search(key)
    # The rank is in the shape of `down`; the group is that of an `up`.
    if not config or factor is None or factor[1]:
        return
    name, end = f"{key[: factor.start()]}.alpha", len(key) - factor.start()
    layer = module[:-end].replace(".processor.", ".")
    alpha = layer_alpha(config, layer, tensor.shape[0] if tensor.ndim else 1)
    if name not in lora and alpha is not None:
        lora[name] = alpha


def _renamed(key: str, family: str) -> str:
    factor = _FACTOR.search(key)
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
    module = unet_module(stem) if _BLOCK.search(key) else ""
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
