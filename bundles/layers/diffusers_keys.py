"""LoRA keys of diffusers and PEFT under the names that the host's LoRA loader knows."""

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
    """SD1.5's, SD2's and SDXL's layers under the generic names; other families' keys stay.

    The UNets of all three are laid out alike, so theirs are renamed also where the tensors do not
    tell which of them it is.
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
    """The tensors, and the alpha that diffusers' header tells of each layer that has none."""
    known, made = configs(metadata), dict(tensors)
    known["text_encoder_1"] = known.get("text_encoder", {})
    for key, tensor in tensors.items():
        part, _, module = key.partition(".")
        if part not in known and _BLOCK.match(key):
            part, module = "unet", key
        _add_alpha(made, key, tensor, known.get(part, {}), module)
    return made


def from_peft(tensors: Mapping[str, Tensor], config: Config, part: str = "") -> dict[str, Tensor]:
    """A PEFT adapter of one part of a pipeline (`unet`, `text_encoder_1`) as diffusers names it.

    Without a part it is told by the layers; transformers keep PEFT's prefix, since each family's
    loader wants another one. ValueError for adapters that are no LoRA.
    """
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise ValueError(
            f"it is a {str(kind)[:20]} of PEFT, of which only LoRA and DoRA are read: train either."
        )
    # Only the host's name of the first encoder has no number.
    part = {"text_encoder_1": "text_encoder"}.get(part, part) or _part_of(tensors)
    made: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        module = key.removeprefix(PEFT_PREFIX)
        name = f"{part}.{module}" if part else key
        made[name] = tensor
        _add_alpha(made, name, tensor, config, module)
    return made


def _part_of(tensors: Mapping[str, Tensor]) -> str:
    """The part of a pipeline whose layers these are, "" for a transformer."""
    layers = {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in tensors.items()}
    if any(map(_BLOCK.match, layers)):
        return "unet"
    if not any(map(_CLIP.match, layers)):
        return ""
    read = [t.shape for key, t in layers.items() if re.search(r"(?:_proj|fc1)\.lora_A\b", key)]
    return "text_encoder_2" if any(shape[1:] == (_CLIP_G,) for shape in read) else "text_encoder"


def layer_of(key: str) -> str:
    """The layer that a tensor of a LoRA belongs to, "" for what is none."""
    found = _FACTOR.search(key) or _OTHER.search(key)
    return key[: found.start()] if found else ""


def lacks_alpha(lora: Mapping[str, Tensor]) -> bool:
    """Whether a layer has factors and no alpha."""
    layers = {key[: found.start()] for key in lora if (found := _FACTOR.search(key))}
    return any(f"{layer}.alpha" not in lora for layer in layers)


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
    if found is None:
        return key
    end = f"lora_{'up' if factor[1] else 'down'}.weight" if factor else found[1]
    if end.startswith(MAGNITUDE):
        end = MAGNITUDE
    kohya = f"{_stem(key[: found.start()], family)}.{end}"
    if family in KOHYA_FAMILIES:
        made = generic_key(kohya, family)
        return key if made == kohya else made
    # The host knows the encoders of such a file by diffusers' own names.
    module = (
        unet_module(kohya.partition(".")[0].removeprefix(UNET_KOHYA)) if _BLOCK.search(key) else ""
    )
    return f"{UNET}{module}.{end}" if module else key


def _stem(module: str, family: str) -> str:
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
