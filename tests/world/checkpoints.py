"""Tiny random checkpoints that the host's own loader recognises as SD1.5 and SDXL.

The host reads the architecture from the shapes in the file. SD1.5 fixes only the width of the UNet,
SDXL its width and the flat list of transformer depths; the number of levels is free. The text
encoders' depth comes from the host's config files, so the layers that are not wanted are zero: a
residual layer of zeros is the identity, and zeros are holes in the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .holes import write_with_holes

Tensors = dict[str, Tensor]
CLIP_CONFIGS = {
    "clip_l": "sd1_clip_config.json",
    "clip_g": "clip_config_bigg.json",
    "clip_h": "text_encoders/sd2_clip_config.json",
}
LARGEST, ROWS = 2**27, 4096
"""A matrix of more numbers is drawn in so many rows, which repeat."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What differs between the tiny checkpoints; `short_layers` is the depth of a cut encoder."""

    encoders: tuple[str, ...]
    depths: tuple[int, ...]
    context: int
    vae_scale: float
    short_layers: int


SD15 = Family(encoders=("clip_l",), depths=(1,), context=768, vae_scale=0.18215, short_layers=2)
# The smallest list of transformer depths that the host maps to the class SDXL is KOALA-700M's.
# SDXL reads the layer before the last one, so a cut encoder needs three to have two that matter.
SDXL = Family(
    encoders=("clip_l", "clip_g"),
    depths=(0, 2, 5),
    context=2048,
    vae_scale=0.13025,
    short_layers=3,
)


def build_sd15(path: Path, *, seed: int = 0) -> None:
    """Write an SD1.5 checkpoint for CheckpointLoaderSimple: 14 M UNet, two live CLIP-L layers."""
    build(path, SD15, seed, layers=None)


def build_sd15_short(path: Path, *, seed: int = 0) -> None:
    """Write an SD1.5 checkpoint whose CLIP has two layers, for `load_short` only."""
    build(path, SD15, seed, layers=SD15.short_layers)


def build_sdxl_short(path: Path, *, seed: int = 0) -> None:
    """Write an SDXL checkpoint whose text encoders have three layers, for `load_short` only."""
    build(path, SDXL, seed, layers=SDXL.short_layers)


def load_short(path: Path) -> tuple[object, object, object]:
    """Return (model, clip, vae) of a short checkpoint, which the plain loader would misread."""
    import comfy.sd
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        family = SDXL if any(".embedders." in key for key in file.keys()) else SD15  # noqa: SIM118
    options = {
        f"{name}_model_config": {"num_hidden_layers": family.short_layers}
        for name in family.encoders
    }
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path), te_model_options=options)
    return model, clip, vae


def build(path: Path, family: Family, seed: int, layers: int | None) -> None:
    """Write a whole checkpoint; `layers` cuts the text encoders, None keeps the host's depth."""
    generator = torch.Generator().manual_seed(seed)
    unet = random_weights(unet_module(family), generator)
    tensors = {f"model.diffusion_model.{key}": value for key, value in unet.items()}
    tensors |= random_vae(family.vae_scale, generator)
    clip: Tensors = {}
    for name in family.encoders:
        live = 2 if layers is None else layers
        cut = {} if layers is None else {"num_hidden_layers": layers}
        weights = random_weights(clip_module(name, **cut), generator, live_layers=live)
        clip |= {f"{name}.transformer.{key}": value for key, value in weights.items()}
    tensors |= clip_as_saved(family, clip)
    write_with_holes(path, tensors)


def clip_as_saved(family: Family, clip: Tensors) -> Tensors:
    """Rename text-encoder weights as in the family's published files, by the host's own code."""
    import comfy.supported_models

    config = comfy.supported_models.SDXL if family is SDXL else comfy.supported_models.SD15
    return config({}).process_clip_state_dict_for_saving(clip)


def unet_module(
    family: Family, *, output_depths: tuple[int, ...] = (), device: str = "meta"
) -> nn.Module:
    """A UNet with unset weights: one level, transformers at `depths` and, on the way out, here."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    xl = family is SDXL
    outputs = len(family.depths) + 1
    return UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[len(family.depths)],
        channel_mult=[1],
        transformer_depth=list(family.depths),
        transformer_depth_output=list(output_depths) or [0] * outputs,
        transformer_depth_middle=-2,
        use_spatial_transformer=True,
        legacy=False,
        context_dim=family.context,
        use_linear_in_transformer=xl,
        num_heads=-1 if xl else 8,
        num_head_channels=64 if xl else -1,
        num_classes="sequential" if xl else None,
        adm_in_channels=2816 if xl else None,
        dtype=torch.float32,
        device=device,
        operations=comfy.ops.disable_weight_init,
    )


def clip_module(name: str, **cut: int) -> nn.Module:
    """A CLIP text encoder without weights, as large as the host's config says unless cut."""
    import comfy.clip_model
    import comfy.ops

    config = json.loads((Path(comfy.ops.__file__).parent / CLIP_CONFIGS[name]).read_text())
    return comfy.clip_model.CLIPTextModel(
        {**config, **cut}, torch.float32, "meta", comfy.ops.manual_cast
    )


def random_vae(scale: float, generator: torch.Generator, *, channels: int = 4) -> Tensors:
    """A random autoencoder in the TAESD layout whose pictures are gray noise inside 0..1."""
    import comfy.taesd.taesd

    weights = random_weights(comfy.taesd.taesd.TAESD(latent_channels=channels), generator)
    last = max(int(key.split(".")[1]) for key in weights if key.startswith("taesd_decoder."))
    weights[f"taesd_decoder.{last}.weight"] *= 0.1
    weights[f"taesd_decoder.{last}.bias"] += 0.5
    weights |= {"vae_scale": torch.tensor(scale), "vae_shift": torch.tensor(0.0)}
    return {f"first_stage_model.{key}": value for key, value in weights.items()}


def random_weights(
    module: nn.Module, generator: torch.Generator, *, live_layers: int | None = None
) -> Tensors:
    """Fp16 weights that keep a signal's size; encoder layers from `live_layers` on are holes."""
    weights = {}
    for key, shaped in module.state_dict().items():
        if is_dead(key, live_layers) and shaped.dim() > 1:
            value = torch.empty(shaped.shape, device="meta")
        elif shaped.dim() > 1:
            spread = 0.02 if "embedding" in key else (shaped.numel() / shaped.shape[0]) ** -0.5
            value = spread * torch.randn(drawn_shape(shaped.shape), generator=generator)
        else:
            # All one-dimensional weights are scales of norms.
            value = torch.full(shaped.shape, float(key.endswith("weight")))
        weights[key] = repeated(value.half(), shaped.shape)
    return weights


def drawn_shape(shape: torch.Size) -> tuple[int, ...]:
    """What is drawn of a random matrix: the largest token tables would take seconds."""
    return tuple(shape) if shape.numel() < LARGEST else (ROWS, *shape[1:])


def repeated(value: Tensor, shape: torch.Size) -> Tensor:
    """The tensor itself, or its rows over and over where the shape has more."""
    if value.shape == shape:
        return value
    return value[torch.arange(shape[0]) % len(value)]


def is_dead(key: str, live_layers: int | None) -> bool:
    """Whether a text encoder's weight belongs to a layer that is to be the identity."""
    if live_layers is None or ".encoder.layers." not in key:
        return False
    return int(key.split(".encoder.layers.")[1].split(".")[0]) >= live_layers
