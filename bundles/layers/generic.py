"""LoRA keys: the host's generic names, and kohya's for SD1.x, SD2 (diffusers) and SDXL (sgm)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

DIFFUSERS_STYLE = frozenset({"sd15", "sd2"})
SGM_STYLE = frozenset({"sdxl"})
KOHYA_FAMILIES = DIFFUSERS_STYLE | SGM_STYLE

UNET, UNET_KOHYA = "diffusion_model.", "lora_unet_"
_TEXT_KOHYA = {
    "sd15": {"clip_l": "lora_te_"},
    "sd2": {"clip_h": "lora_te_"},
    "sdxl": {"clip_l": "lora_te1_", "clip_g": "lora_te2_"},
}
_SUFFIX = re.compile(
    r"\.(?:lora_(?:up|down|mid)\.weight|alpha|dora_scale|lora_magnitude_vector|reshape_weight|rescale"
    r"|diff|diff_b|w_norm|b_norm|set_weight|hada_\w+|lokr_\w+|oft_\w+|[ab][12]\.weight)$"
)
_TEXT = re.compile(
    r"text_encoders\.(\w+)\.transformer\.text_model\.encoder\.layers\.(\d+)\."
    r"(self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])"
)
_TEXT_BACK = re.compile(
    r"text_model_encoder_layers_(\d+)_(self_attn_(?:q|k|v|out)_proj|mlp_fc[12])"
)
# Both UNets have two residual blocks per level, and its down- or upsampler comes last.
_LEVEL = 3
_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_SINGLE = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_SINGLE_BACK = {
    "class_embedding_linear_1": "label_emb.0.0",
    "class_embedding_linear_2": "label_emb.0.2",
    **{words.replace(".", "_"): name for name, words in _SINGLE.items()},
}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
# The upsampler comes after the attention, which each family's UNet lacks on one level going up.
_UNATTENDED = {"sd15": 0, "sd2": 0, "sdxl": 2}
# The words of both UNets' module names, to tell "_" within a word from "_" between two.
_WORD = re.compile(
    r"input_blocks|middle_block|output_blocks|transformer_blocks|time_embed|label_emb|in_layers|emb_layers|out_layers"
    r"|skip_connection|proj_in|proj_out|to_q|to_k|to_v|to_out|[a-z]+\d*|\d+"
)
_INSIDE = re.compile(
    r"norm|proj_in|proj_out"
    r"|transformer_blocks\.\d+\.(?:norm[123]|attn[12]\.(?:to_[qkv]|to_out\.0)|ff\.net\.(?:0\.proj|2))"
)
_WITHIN_RESIDUAL = "|".join(map(re.escape, _RESIDUAL))
_MODULE = re.compile(
    rf"(?:(?:in|out)put_blocks\.\d+|middle_block)\.1\.(?:{_INSIDE.pattern})"
    rf"|(?:(?:in|out)put_blocks\.\d+\.0|middle_block\.[02])\.(?:{_WITHIN_RESIDUAL})"
    r"|input_blocks\.\d+\.0\.op|output_blocks\.\d+\.[12]\.conv"
)


def to_kohya(lora: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """Rename generic keys to kohya's where the family has such names; other keys stay."""
    return _renamed(lora, family, kohya_key)


def to_generic(lora: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """Rename kohya's keys to the host's generic ones, for UNets of the standard block layout."""
    return _renamed(lora, family, generic_key)


def kohya_key(key: str, family: str) -> str:
    """A generic key in kohya's spelling, or the key itself if there is none."""
    suffix = _SUFFIX.search(key)
    if family not in KOHYA_FAMILIES or suffix is None:
        return key
    module = key[: suffix.start()]
    if module.startswith(UNET):
        inner = module.removeprefix(UNET)
        inner = _diffusers_block(inner) if family in DIFFUSERS_STYLE else inner
        name = UNET_KOHYA + inner.replace(".", "_")
    else:
        name = _text_kohya(module, family)
    return name + suffix.group() if name else key


def generic_key(key: str, family: str) -> str:
    """A key of kohya's in the host's generic spelling; any other key as it is."""
    stem, dot, suffix = key.partition(".")
    if family not in KOHYA_FAMILIES or not dot:
        return key
    if stem.startswith(UNET_KOHYA):
        module = unet_module(stem.removeprefix(UNET_KOHYA), family)
        name = module and UNET + module
    else:
        name = _text_generic(stem, family)
    return f"{name}.{suffix}" if name else key


def diffusers_module(module: str) -> str:
    """A UNet's module in diffusers' dotted words, for the standard layout of SD and SDXL."""
    return _diffusers_block(module.removeprefix(UNET))


def _renamed(
    lora: Mapping[str, Tensor], family: str, rename: Callable[[str, str], str]
) -> dict[str, Tensor]:
    renamed = {rename(key, family): tensor for key, tensor in lora.items()}
    if len(renamed) < len(lora):
        raise ValueError(
            "The LoRA holds a layer under two names, so one would be lost: remove either of them."
        )
    return renamed


def _diffusers_block(name: str) -> str:
    """A module of the sgm UNet in diffusers' words; an unknown one keeps its name."""
    if name in _SINGLE:
        return _SINGLE[name]
    if middle := re.fullmatch(r"middle_block\.([012])\.(.+)", name):
        slot, inner = middle.groups()
        return f"mid_block.{_MIDDLE[slot]}.{_RESIDUAL.get(inner, inner)}"
    match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", name)
    if match is None:
        return name
    side, index, slot, inner = match.groups()
    # Input block 0 is the first convolution, so the levels begin at 1.
    down = side == "input"
    level, layer = divmod(int(index) - down, _LEVEL)
    block = f"{'down' if down else 'up'}_blocks.{level}"
    if inner in ("op", "conv"):
        return f"{block}.{'down' if down else 'up'}samplers.0.conv"
    if slot == "0":
        return f"{block}.resnets.{layer}.{_RESIDUAL.get(inner, inner)}"
    return f"{block}.attentions.{layer}.{inner}"


def _text_kohya(module: str, family: str) -> str:
    match = _TEXT.fullmatch(module)
    if match is None:
        return ""
    encoder, layer, inner = match.groups()
    prefix = _TEXT_KOHYA[family].get(encoder, "")
    return prefix and f"{prefix}text_model_encoder_layers_{layer}_{inner.replace('.', '_')}"


def _text_generic(stem: str, family: str) -> str:
    for encoder, prefix in _TEXT_KOHYA[family].items():
        match = _TEXT_BACK.fullmatch(stem.removeprefix(prefix)) if stem.startswith(prefix) else None
        if match:
            layer, inner = match.groups()
            inner = inner.replace("self_attn_", "self_attn.").replace("mlp_", "mlp.")
            return f"text_encoders.{encoder}.transformer.text_model.encoder.layers.{layer}.{inner}"
    return ""


def unet_module(stem: str, family: str = "") -> str:
    """The host's UNet module for a name in diffusers' or sgm's words, joined by "_".

    "" for a name of neither kind and, without a family, for one that could mean two modules.
    """
    if stem in _SINGLE_BACK:
        return _SINGLE_BACK[stem]
    dotted = ".".join(_WORD.findall(stem))
    if dotted.replace(".", "_") != stem:
        return ""
    return dotted if dotted in _SINGLE or _MODULE.fullmatch(dotted) else _sgm_block(stem, family)


def _sgm_block(stem: str, family: str) -> str:
    """A module of diffusers' UNet in sgm's dotted words, "" for any other name."""
    match = re.fullmatch(r"(down|up|mid)_block(?:s_(\d+))?_([a-z]+)_(\d+)_(\w+)", stem)
    if match is None or (match[1] == "mid") != (match[2] is None):
        return ""
    side, kind, number, inner = match[1], match[3], int(match[4]), match[5]
    level = int(match[2] or 0)
    if kind == "resnets":
        residual = {new: old for old, new in _RESIDUAL.items()}.get(inner, "")
        return residual and f"{_sgm_slot(side, level, kind, number)}.{residual}"
    if kind == "attentions":
        inside = ".".join(_WORD.findall(inner))
        exists = _INSIDE.fullmatch(inside) and (side != "mid" or number == 0)
        return f"{_sgm_slot(side, level, kind, number)}.{inside}" if exists else ""
    is_sampler = f"{kind}_{number}_{inner}" == f"{side}samplers_0_conv"
    return _sampler(side, level, family) if is_sampler else ""


def _sgm_slot(side: str, level: int, kind: str, number: int) -> str:
    slot = 1 if kind == "attentions" else 0
    if side == "mid":
        return f"middle_block.{1 if slot else 2 * number}"
    if side == "down":
        return f"input_blocks.{1 + level * _LEVEL + number}.{slot}"
    return f"output_blocks.{level * _LEVEL + number}.{slot}"


def _sampler(side: str, level: int, family: str) -> str:
    """The down- or upsampler, which is the last module of a level."""
    last = level * _LEVEL + _LEVEL - 1
    if side == "down":
        return f"input_blocks.{1 + last}.0.op"
    if side == "mid" or (not family and level in _UNATTENDED.values()):
        return ""
    return f"output_blocks.{last}.{1 if level == _UNATTENDED.get(family) else 2}.conv"
