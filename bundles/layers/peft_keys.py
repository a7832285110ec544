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

PEFT_PREFIX = "base_model.model."
UNET = "unet."
MAGNITUDE = "lora_magnitude_vector"
"""Lengths of a DoRA relative to W + s B A; those under `dora_scale` are relative to W alone"""
FACTOR = re.compile(
    r"(?:\.lora_A(?:\.[^.]+)?\.weight|[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight"
    r"|\.lora_down\.weight)$|"
    r"(\.lora_B(?:\.[^.]+)?\.weight|[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight"
    r"|\.lora_up\.weight)$"
)
"""How the key of a factor ends, in diffusers' spellings too; the group is that of an `up`"""
UNET_BLOCK = re.compile(r"^(?:unet\.)?(?:down_blocks\.\d|up_blocks\.\d|mid_block)\.")
_CLIP = re.compile(r"(?:text_model\.)?encoder\.layers\.\d+\.(?:self_attn|mlp)\.")
_CLIP_G = 1280
_CONFIGS = "lora_adapter_metadata"
"""The header field in which diffusers keeps the configuration of each part of a pipeline"""
_MAX_CONFIG = 2**20
_WORDS = re.compile(r"\^?[\w.]+")
_ADAPTER_NAME = re.compile(
    r"(\.lora_[AB])\.(?!weight$|bias$|default\.)([^.]+)(?=\.(?:weight|bias)$)"
)
# By these names PEFT's other adapters are known where no configuration says what they are.
_KINDS = (
    ("LOHA", re.compile(r"\.hada_[wt]\d(?:_[ab])?$")),
    ("LOKR", re.compile(r"\.lokr_[wt]\d(?:_[ab])?$")),
    ("ADALORA", re.compile(r"\.lora_E$|\.ranknum$")),
    ("OFT", re.compile(r"\.oft_[rR]\b")),
    ("BOFT", re.compile(r"\.boft_[RS]$")),
    ("IA3", re.compile(r"\.ia3_l$")),
    ("VERA", re.compile(r"\.vera_lambda_[bd]$")),
)
_SHIFTED_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga", re.IGNORECASE)
"""Initializations of PEFT that take the start of the factors out of the base model's weights"""
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


def from_peft(tensors: Mapping[str, Tensor], config: Config, part: str = "") -> dict[str, Tensor]:
    """A PEFT adapter for one part of a pipeline (`unet`, `text_encoder_1`) in diffusers' names.

    Without a part, the layers decide. Transformers keep PEFT's prefix, since each family's loader
    expects a different one. ValueError for adapters other than LoRA and DoRA.
    """
    kind = config.get("peft_type") or other_kind(tensors) or "LORA"
    if kind != "LORA":
        raise ValueError(
            f"it is PEFT's {str(kind)[:20]}, and of PEFT only LoRA and DoRA are read: train either."
        )
    _check_start(config)
    tensors = without_adapter_name(tensors)
    # The host's name for the first encoder has no number.
    part = {"text_encoder_1": "text_encoder"}.get(part, part) or _part_of(tensors)
    lora: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        module = key.removeprefix(PEFT_PREFIX)
        name = f"{part}.{module}" if part else key
        lora[name] = tensor
        _add_alpha(lora, name, tensor, config, module)
    return lora


def other_kind(tensors: Mapping[str, Tensor]) -> str:
    """What PEFT calls an adapter other than LoRA, by its tensors; "" for LoRA and DoRA."""
    found = (kind for kind, names in _KINDS if any(map(names.search, tensors)))
    return next(found, "")


def _check_start(config: Config) -> None:
    """Refuse factors that are relative to other weights than those of the base model."""
    start = config.get("init_lora_weights")
    if isinstance(start, str) and _SHIFTED_BASE.match(start):
        raise ValueError(
            f"its training began with {start[:40]}, which changed the base model's weights too, so "
            "the file does not hold the whole change: save it again by PEFT's save_pretrained with "
            "path_initial_model_for_weight_conversion, which makes it a plain LoRA."
        )


def without_adapter_name(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Keys such as `lora_A.default_0.weight` without PEFT's name of the adapter.

    ValueError where two adapters change one layer. The host itself knows `default`.
    """
    renamed: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for key, tensor in tensors.items():
        match = _ADAPTER_NAME.search(key)
        plain = _ADAPTER_NAME.sub(r"\1", key)
        name = match[2] if match else ""
        if plain in renamed:
            raise ValueError(
                f"it holds two adapters, '{names[plain][:60]}' and '{name[:60]}', for the same "
                "layers: save one of them alone."
            )
        names[plain], renamed[plain] = name, tensor
    return renamed


def _part_of(tensors: Mapping[str, Tensor]) -> str:
    """The part of a pipeline that has these layers, "" for a transformer."""
    layers = {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in tensors.items()}
    if any(map(UNET_BLOCK.match, layers)):
        return "unet"
    if not any(map(_CLIP.match, layers)):
        return ""
    down = [t.shape for key, t in layers.items() if re.search(r"(?:_proj|fc1)\.lora_A\b", key)]
    return "text_encoder_2" if any(shape[1:] == (_CLIP_G,) for shape in down) else "text_encoder"


def with_alphas(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors with the alphas in diffusers' header for layers that have none of their own."""
    tensors = without_adapter_name(tensors)
    part_configs, lora = _configs(metadata), dict(tensors)
    for config in part_configs.values():
        _check_start(config)
    part_configs["text_encoder_1"] = part_configs.get("text_encoder", {})
    for key, tensor in tensors.items():
        part, _, module = key.partition(".")
        if part not in part_configs and UNET_BLOCK.match(key):
            part, module = "unet", key
        _add_alpha(lora, key, tensor, part_configs.get(part, {}), module)
    return lora


def lacks_alpha(lora: Mapping[str, Tensor]) -> bool:
    """Whether any layer has factors but no alpha."""
    layers = {key[: factor.start()] for key in lora if (factor := FACTOR.search(key))}
    return any(f"{layer}.alpha" not in lora for layer in layers)


def _add_alpha(
    lora: dict[str, Tensor], key: str, tensor: Tensor, config: Config, module: str
) -> None:
    factor = FACTOR.search(key)
    # Once per layer: an `up`, which the group matches, does not have the rank as its first size.
    if not config or factor is None or factor[1]:
        return
    name, end = f"{key[: factor.start()]}.alpha", len(key) - factor.start()
    layer = module[:-end].replace(".processor.", ".")
    alpha = _layer_alpha(config, layer, tensor.shape[0] if tensor.ndim else 1)
    if name not in lora and alpha is not None:
        lora[name] = alpha


def _configs(metadata: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """diffusers' configurations in a header, by the part of a pipeline that the keys begin with."""
    text = metadata.get(_CONFIGS, "")
    try:
        parsed: object = json.loads(text) if len(text) < _MAX_CONFIG else None
    except (ValueError, RecursionError):
        return {}
    by_part: dict[str, dict[str, object]] = {}
    for key, value in cast("dict[str, object]", parsed if isinstance(parsed, dict) else {}).items():
        part, _, name = key.partition(".")
        by_part.setdefault(part, {})[name] = value
    return by_part


def _layer_alpha(config: Config, module: str, rank: int) -> Tensor | None:
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
