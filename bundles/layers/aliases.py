"""One name for a layer that loaders know by several, so that the layers of several files meet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .generic import KOHYA_FAMILIES, UNET, generic_key, unet_module

# The host's own modules: kohya's spelling joins their words by "_".
_OWN = ("diffusion_model.", "lora_unet_", "lora_prior_unet_")
# diffusers' modules, where a family has other names there; the longest first, "" at last.
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
_CLIP = re.compile(r"text_model_|text_projection$")
_UNET_WORDS = re.compile(r"(?:down|up|input|output)_blocks_\d+_|(?:mid|middle)_block_")
_DIFFUSERS_UNET = re.compile(r"(?:down|up)_blocks_\d+_|mid_block_")
# Names of one module of Flux, HunyuanVideo, Lumina and Z-Image that the host takes for the same.
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
# The host's own modules whose names in diffusers are all known: those above, or the same.
_KNOWN = re.compile(
    r"(?:double_blocks|single_blocks|transformer_blocks)_\d+_"
    r"|(?:layers|context_refiner|noise_refiner)_\d+_(?:attention|feed_forward|adaLN_modulation)_"
    r"|(?:img|txt|time|vector|guidance)_in(?:_|$)|distilled_guidance_layer_|final_layer_|x_embedder$"
    # Not a UNet's upsampler, whose place needs the family.
    rf"|{_IN_UNET}(?!output_blocks_\d+_\d_conv$)"
)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a layer is, whatever file names it."""

    encoder: str
    """The text encoder, "" for the diffusion model"""
    words: str


@dataclass(frozen=True, slots=True)
class _Layer:
    stem: str
    place: _Place
    own: bool = False
    """Whether it is named as the host's own module of the diffusion model"""
    words: str = ""
    """Of that name, behind a mark where it is a UNet's"""


def one_spelling(files: Sequence[Sequence[str]], family: str) -> list[dict[str, str]]:
    """For each file its layers' names, each with the one that stands for the layer in all files.

    ValueError where a file has a layer twice, and where it cannot be told which layers of two
    files are the same: one of them would be lost without a word.
    """
    stems = [stem for file in files for stem in file]
    words = [_denoiser(stem)[0] for stem in stems if not _TEXT.match(stem)]
    unet = family in KOHYA_FAMILIES or (not family and any(map(_UNET_WORDS.match, words)))
    _check_clip(stems, family)
    read = [[_read(stem, family, unet) for stem in file] for file in files]
    read = _with_encoders(read)
    _check_told(read)
    names: dict[_Place, str] = {}
    for layer in (layer for file in read for layer in file):
        names.setdefault(layer.place, _generic(layer, family, unet) or layer.stem)
    return [_by_stem(file, names) for file in read]


def _by_stem(file: Sequence[_Layer], names: Mapping[_Place, str]) -> dict[str, str]:
    first: dict[_Place, str] = {}
    for layer in file:
        other = first.setdefault(layer.place, layer.stem)
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
    """The words of a layer's name without what a loader expects before them; whose they are."""
    prefix = next(one for one in (*_OWN, *_DIFFUSERS) if stem.startswith(one))
    return re.sub(r"[.-]", "_", stem.removeprefix(prefix)).lstrip("_"), prefix in _OWN


def _aliased(words: str) -> str:
    for pattern, name in _ALIASES:
        words = pattern.sub(name, words) if pattern.match(words) else words
    return words


def _encoder(text: re.Match[str], words: str) -> str:
    """clip_l, which is SD2's as well, clip_g, another by its name in the host, "?" for unnamed."""
    if not _CLIP.match(words):
        return text["name"] or "?"
    number = text["kohya"] or text["part"] or ""
    if text["prior"] or number == "2" or text["name"] == "clip_g":
        return "clip_g"
    return "clip_l" if text["name"] in (None, "clip_l", "clip_h") else text["name"]


def _check_clip(stems: Sequence[str], family: str) -> None:
    """A model with CLIP-G alone calls it as others call CLIP-L."""
    unnumbered = [s for s in stems if re.match(r"lora_te_text_|text_encoder\.text_", s)]
    alone = [s for s in stems if re.match(r"text_encoders\.clip_g\.|lora_prior_te_", s)]
    pair = re.compile(r"text_encoders\.clip_[lh]\.|lora_te[12]_text_|text_encoder_2\.text_")
    if unnumbered and alone and family not in KOHYA_FAMILIES and not any(map(pair.match, stems)):
        raise _untold(unnumbered[0], alone[0])


def _with_encoders(files: Sequence[Sequence[_Layer]]) -> list[list[_Layer]]:
    """The layers of unnamed encoders in the one that has such a layer, if there is one."""
    named: dict[str, dict[str, str]] = {}
    for layer in (layer for file in files for layer in file):
        if layer.place.encoder not in ("", "?"):
            named.setdefault(layer.place.words, {})[layer.place.encoder] = layer.stem
    return [[_within(layer, named) for layer in file] for file in files]


def _within(layer: _Layer, named: Mapping[str, Mapping[str, str]]) -> _Layer:
    found = named.get(layer.place.words, {})
    if layer.place.encoder != "?" or not found:
        return layer
    if len(found) > 1:
        raise _untold(layer.stem, next(iter(found.values())))
    return _Layer(layer.stem, _Place(next(iter(found)), layer.place.words))


def _check_told(files: Sequence[Sequence[_Layer]]) -> None:
    """Refuse layers in the host's names beside others in diffusers', where both lack the other."""
    denoisers = [{x.place: x for x in file if not x.place.encoder} for file in files]
    for one in denoisers:
        for other in denoisers:
            own = [x for place, x in one.items() if x.own and place not in other]
            theirs = [x for place, x in other.items() if not x.own and place not in one]
            unsure = [layer for layer in own if not _KNOWN.match(layer.words)]
            if unsure and theirs:
                raise _untold(unsure[0].stem, theirs[0].stem)


def _untold(one: str, other: str) -> ValueError:
    return ValueError(
        f"The files name their layers in two ways ({one} and {other}), and nothing tells which are "
        "the same: apply them by Load Bundle, one after the other, instead of merging them."
    )


def _generic(layer: _Layer, family: str, unet: bool) -> str:
    """The host's generic name of a layer of SD1.x, SD2 or SDXL, "" for any other."""
    place = layer.place
    if not place.encoder:
        module = unet_module(place.words, family) if unet else ""
        return module and UNET + module
    number = {"clip_l": "1", "clip_g": "2"}.get(place.encoder, "") if family == "sdxl" else ""
    kohya = f"lora_te{number}_{place.words}.alpha"
    made = generic_key(kohya, family)
    return "" if made == kohya else made.removesuffix(".alpha")
