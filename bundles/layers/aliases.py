"""One name for each layer that loaders know by several, so that layers of different files meet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .generic import KOHYA_FAMILIES, UNET, generic_key, unet_module

# The host's own modules; kohya's spelling joins their words by "_".
_OWN = ("diffusion_model.", "lora_unet_", "lora_prior_unet_")
# diffusers' modules, for families that have different names there; the longest first.
_DIFFUSERS = (
    "unet.base_model.model.",
    "base_model.model.",
    "lora_transformer_",
    "transformer.",
    "lycoris_",
    "unet.",
    "",
)
_TEXT = re.compile(
    r"text_encoders\.(?:(?P<name>\w+)\.)?transformer\.|lora_te(?P<kohya>\d?)_|(?P<prior>lora_prior_te_)"
    r"|text_encoder(?:_(?P<part>\d))?\."
)
_OF_TEXT = re.compile(
    r"(?:base_model\.model\.)?(?:text_encoders\.|text_encoder(?:_\d)?\.|lora_te\d?_|lora_prior_te_"
    r"|(?:lycoris_)?text_model[._]|clip_[lgh]\.|t5(?:xxl)?\.)"
)
_CLIP = re.compile(r"text_model_|text_projection$")
_UNET_WORDS = re.compile(r"(?:down|up|input|output)_blocks_\d+_|(?:mid|middle)_block_")
_DIFFUSERS_UNET = re.compile(r"(?:down|up)_blocks_\d+_|mid_block_")
# Names in Flux, HunyuanVideo, Lumina and Z-Image that the host maps to the same module.
_ALIASES = tuple(
    (re.compile(rf"{pattern}$"), name)
    for pattern, name in (
        (r"(.*_mod|.*modulation)_linear", r"\1_lin"),
        (r"(.*mlp)_fc1", r"\1_0"),
        (r"(.*mlp)_fc2", r"\1_2"),
        (r"(transformer_blocks_\d+_ff\w*)_linear_in", r"\1_net_0_proj"),
        (r"(transformer_blocks_\d+_ff\w*)_linear_out", r"\1_net_2"),
        (r"double_blocks_(\d+)_img_attn_proj", r"transformer_blocks_\1_attn_to_out_0"),
        (r"double_blocks_(\d+)_txt_attn_proj", r"transformer_blocks_\1_attn_to_add_out"),
        (r"double_blocks_(\d+)_img_mod_lin", r"transformer_blocks_\1_norm1_linear"),
        (r"double_blocks_(\d+)_txt_mod_lin", r"transformer_blocks_\1_norm1_context_linear"),
        (r"double_blocks_(\d+)_img_mlp_0", r"transformer_blocks_\1_ff_net_0_proj"),
        (r"double_blocks_(\d+)_img_mlp_2", r"transformer_blocks_\1_ff_net_2"),
        (r"double_blocks_(\d+)_txt_mlp_0", r"transformer_blocks_\1_ff_context_net_0_proj"),
        (r"double_blocks_(\d+)_txt_mlp_2", r"transformer_blocks_\1_ff_context_net_2"),
        (r"single_blocks_(\d+)_modulation_lin", r"single_transformer_blocks_\1_norm_linear"),
        (r"single_blocks_(\d+)_linear1", r"single_transformer_blocks_\1_attn_to_qkv_mlp_proj"),
        (r"single_blocks_(\d+)_linear2", r"single_transformer_blocks_\1_proj_out"),
        (r"(single_transformer_blocks_\d+)_attn_to_out", r"\1_proj_out"),
        (r"time_in_in_layer", "time_text_embed_timestep_embedder_linear_1"),
        (r"time_in_out_layer", "time_text_embed_timestep_embedder_linear_2"),
        (r"vector_in_in_layer", "time_text_embed_text_embedder_linear_1"),
        (r"vector_in_out_layer", "time_text_embed_text_embedder_linear_2"),
        (r"guidance_in_in_layer", "time_text_embed_guidance_embedder_linear_1"),
        (r"guidance_in_out_layer", "time_text_embed_guidance_embedder_linear_2"),
        (r"(?:all_final_layer_2_1|final_layer)_linear", "proj_out"),
        (r"all_final_layer_2_1_(.*)", r"final_layer_\1"),
        (r"img_in|all_x_embedder_2_1", "x_embedder"),
        (r"txt_in", "context_embedder"),
        (r"pos_embed_input", "controlnet_x_embedder"),
        (r"(\w+_\d+_attention)_to_out_0", r"\1_out"),
    )
)
_IN_UNET = "unet "
# The host's own modules whose names in diffusers are known: they are above, or no different.
_KNOWN = re.compile(
    r"(?:double_blocks|single_blocks|transformer_blocks)_\d+_"
    r"|(?:layers|context_refiner|noise_refiner)_\d+_(?:attention|feed_forward|adaLN_modulation)_"
    r"|(?:img|txt|time|vector|guidance)_in(?:_|$)|distilled_guidance_layer_|final_layer_|x_embedder$"
    # Not a UNet's upsampler, whose position depends on the family.
    rf"|{_IN_UNET}(?!output_blocks_\d+_\d_conv$)"
)


def is_text_layer(key: str) -> bool:
    """Whether a LoRA's tensor belongs to a text encoder."""
    return _OF_TEXT.match(key) is not None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a layer is, whatever a file calls it."""

    encoder: str
    """Text encoder, "" for the diffusion model, "?" for an encoder that the file does not name"""
    words: str


@dataclass(frozen=True, slots=True)
class _Layer:
    stem: str
    place: _Place
    own: bool = False
    """Whether it has the name of the host's own module in the diffusion model"""
    words: str = ""
    """The words of that name, with a mark in front if the module is a UNet's"""


def one_spelling(files: Sequence[Sequence[str]], family: str) -> list[dict[str, str]]:
    """For each file, the common name of each of its layers.

    ValueError if a file has a layer twice, or if it is unclear which layers of two files are the
    same: one of them would silently be lost.
    """
    stems = [stem for file in files for stem in file]
    words = [_denoiser(stem)[0] for stem in stems if not _TEXT.match(stem)]
    unet = family in KOHYA_FAMILIES or (not family and any(map(_UNET_WORDS.match, words)))
    _check_clip(stems, family)
    read = [[_read(stem, family, unet) for stem in file] for file in files]
    read = _with_encoders(read)
    _refuse_unclear(read)
    names: dict[_Place, str] = {}
    for layer in (layer for file in read for layer in file):
        names.setdefault(layer.place, _generic(layer, family, unet) or layer.stem)
    return [_by_stem(file, names) for file in read]


def _by_stem(file: Sequence[_Layer], names: Mapping[_Place, str]) -> dict[str, str]:
    stems: dict[_Place, str] = {}
    for layer in file:
        other = stems.setdefault(layer.place, layer.stem)
        if other != layer.stem:
            raise ValueError(
                f"A LoRA holds a layer under two names, {other} and {layer.stem}, so one would be "
                "lost: remove either of them."
            )
    return {layer.stem: names[layer.place] for layer in file}


def _read(stem: str, family: str, unet: bool) -> _Layer:
    text = _TEXT.match(stem)
    if text is not None:
        words = stem[text.end() :].replace(".", "_").removeprefix("model_")
        return _Layer(stem, _Place(_encoder(text, words), words))
    words, own = _denoiser(stem)
    if unet:
        inside = re.sub(r"to_out$", "to_out_0", words.replace("_processor_", "_"))
        module = unet_module(inside, family)
        plain = module.replace(".", "_") or words
        own = bool(module) or (own and not _DIFFUSERS_UNET.match(words))
        return _Layer(stem, _Place("", plain), own, _IN_UNET + plain)
    return _Layer(stem, _Place("", _aliased(words)), own, words)


def _denoiser(stem: str) -> tuple[str, bool]:
    """A layer's name without the loader's prefix, and whether it is the host's own name."""
    prefix = next(p for p in (*_OWN, *_DIFFUSERS) if stem.startswith(p))
    return re.sub(r"[.-]", "_", stem.removeprefix(prefix)).lstrip("_"), prefix in _OWN


def _aliased(words: str) -> str:
    for pattern, name in _ALIASES:
        words = pattern.sub(name, words) if pattern.match(words) else words
    return words


def _encoder(text: re.Match[str], words: str) -> str:
    """clip_l (SD2's encoder too), clip_g, another one by its name in the host, "?" if unnamed."""
    if not _CLIP.match(words):
        return text["name"] or "?"
    number = text["kohya"] or text["part"] or ""
    if text["prior"] or number == "2" or text["name"] == "clip_g":
        return "clip_g"
    return "clip_l" if text["name"] in (None, "clip_l", "clip_h") else text["name"]


def _check_clip(stems: Sequence[str], family: str) -> None:
    """Refuse the name that means CLIP-L in most models, but CLIP-G in models with only that one."""
    unnumbered = [s for s in stems if re.match(r"lora_te_text_|text_encoder\.text_", s)]
    alone = [s for s in stems if re.match(r"text_encoders\.clip_g\.|lora_prior_te_", s)]
    pair = re.compile(r"text_encoders\.clip_[lh]\.|lora_te[12]_text_|text_encoder_2\.text_")
    if unnumbered and alone and family not in KOHYA_FAMILIES and not any(map(pair.match, stems)):
        raise _unclear(unnumbered[0], alone[0])


def _with_encoders(files: Sequence[Sequence[_Layer]]) -> list[list[_Layer]]:
    """Move the layers of unnamed encoders to the one encoder that has such a layer, if any does."""
    named: dict[str, dict[str, str]] = {}
    for layer in (layer for file in files for layer in file):
        if layer.place.encoder not in ("", "?"):
            named.setdefault(layer.place.words, {})[layer.place.encoder] = layer.stem
    return [[_within(layer, named) for layer in file] for file in files]


def _within(layer: _Layer, named: Mapping[str, Mapping[str, str]]) -> _Layer:
    stems = named.get(layer.place.words, {})
    if layer.place.encoder != "?" or not stems:
        return layer
    if len(stems) > 1:
        raise _unclear(layer.stem, next(iter(stems.values())))
    return _Layer(layer.stem, _Place(next(iter(stems)), layer.place.words))


def _refuse_unclear(files: Sequence[Sequence[_Layer]]) -> None:
    """Refuse two files, one in the host's names and one in diffusers', with unmatched layers."""
    denoisers = [{x.place: x for x in file if not x.place.encoder} for file in files]
    for layers in denoisers:
        for others in denoisers:
            own = [x for place, x in layers.items() if x.own and place not in others]
            theirs = [x for place, x in others.items() if not x.own and place not in layers]
            unsure = [layer for layer in own if not _KNOWN.match(layer.words)]
            if unsure and theirs:
                raise _unclear(unsure[0].stem, theirs[0].stem)


def _unclear(stem: str, other: str) -> ValueError:
    return ValueError(
        f"The files name their layers in two ways ({stem} and {other}), and it is unclear which "
        "are the same: apply them by Load Bundle, one after the other, instead of merging them."
    )


def _generic(layer: _Layer, family: str, unet: bool) -> str:
    """The host's generic name of a layer of SD1.x, SD2 or SDXL, "" for any other."""
    place = layer.place
    if not place.encoder:
        module = unet_module(place.words, family) if unet else ""
        return module and UNET + module
    number = {"clip_l": "1", "clip_g": "2"}.get(place.encoder, "") if family == "sdxl" else ""
    kohya = f"lora_te{number}_{place.words}.alpha"
    generic = generic_key(kohya, family)
    return "" if generic == kohya else generic.removesuffix(".alpha")
