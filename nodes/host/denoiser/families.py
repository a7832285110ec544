"""The family of a MODEL, and whether a CLIP, a VAE and a bundle fit it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import comfy.model_base
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE

from ....training.objective import ObjectiveConfig
from ....training.words.concepts import Concept

FAMILIES = {
    "sd15": "SD15",
    "sd2": "SD20",
    "sdxl": "SDXL",
    "sd3": "SD3",
    # Derived classes first: Flux2 is a Flux, and ZImage is a Lumina2.
    "flux2": "Flux2",
    "flux": "Flux",
    "chroma": "Chroma",
    "zimage": "ZImage",
    "lumina2": "Lumina2",
    "qwenimage": "QwenImage",
}
"""Families that bundles name, each with the host's class from which all its variants derive."""

DISTILLED = frozenset({"FluxSchnell"})
"""The host's classes of models that are sampled without guidance."""

CONTEXT_WIDTHS = ("context_dim", "context_in_dim", "cap_feat_dim", "joint_attention_dim")
"""Settings of networks that state the width of their text conditioning."""

UNTRAINABLE = {
    "CosmosPredict2": "its attention uses an operator of ComfyUI that has no gradient",
    "Anima": "its attention uses an operator of ComfyUI that has no gradient",
    "JoyImage": "its attention uses an operator of ComfyUI that has no gradient",
    "SD_X4Upscaler": "it enlarges images, and sees a small one of each",
    "SAM3": "it finds objects and draws no images",
    "RT_DETR_v4": "it finds objects and draws no images",
    "DepthAnything3": "it measures depth and draws no images",
}
"""The host's classes of models that cannot be trained, with the reason."""


def family_of(model: ModelPatcher) -> str:
    """A short name such as sd15 or sdxl, or the host's class name for a family without one."""
    config = model.model.model_config
    if isinstance(model.model, comfy.model_base.SDXL):
        return "sdxl"
    kinds = {kind.__name__ for kind in type(config).__mro__}
    names = (name for name, kind in FAMILIES.items() if kind in kinds)
    return next(names, type(config).__name__.lower())


def check_trainable(model: ModelPatcher) -> None:
    """Raise ValueError for a MODEL that cannot be trained on pictures."""
    kinds = [
        kind.__name__
        for kind in (*type(model.model).__mro__, *type(model.model.model_config).__mro__)
    ]
    reason = next((UNTRAINABLE[kind] for kind in kinds if kind in UNTRAINABLE), "")
    if not reason and model.model.latent_format.latent_dimensions < 2:
        reason = "it makes sound and no images"
    if reason:
        raise ValueError(
            f"The MODEL ({family_of(model)}) cannot be trained: {reason}. Connect another MODEL."
        )


def image_note(model: ModelPatcher) -> str:
    """A line for the report about a MODEL that takes an image beside the noise; "" for others."""
    inner = model.model
    if inner.latent_format.latent_dimensions != 2:
        return ""
    blank = torch.zeros(1, inner.latent_format.latent_channels, 8, 8)
    if inner.concat_cond(noise=blank, latent_image=blank, device=blank.device) is None:
        return ""
    return (
        "The MODEL also takes an image, for inpainting, control or edits: it is trained as it is "
        "sampled without one, with everything to be drawn."
    )


def check_guidance(
    model: ModelPatcher, objective: ObjectiveConfig, concepts: Iterable[Concept]
) -> None:
    """Raise ValueError for guidance that the MODEL cannot take or has built in already."""
    numbers, family = model.model.model_config.unet_config, family_of(model)
    if objective.guidance and not numbers.get("guidance_embed"):
        raise ValueError(
            f"guidance is {objective.guidance:g} and the MODEL ({family}) has no built-in "
            "guidance: set it to 0."
        )
    built_in = numbers.get("guidance_embed") or type(model.model.model_config).__name__ in DISTILLED
    for concept in concepts:
        if concept.negative_vectors and built_in:
            raise ValueError(
                f'"{concept.placeholder}" has negative_vectors and the MODEL ({family}) is sampled '
                "without a negative prompt, since its guidance is built in: set them to 0."
            )


def check_bundle(model: ModelPatcher, family: str) -> None:
    """Raise ValueError if a bundle was made for another family than the MODEL's."""
    # Nothing else would notice: SD1.5 and SDXL share layer names and the width of an encoder.
    own = family_of(model)
    if own in FAMILIES and family in FAMILIES and own != family:
        raise ValueError(
            f"The bundle was made for {family} and the MODEL is {own}: connect a MODEL and a "
            f"CLIP of {family}, or choose another bundle."
        )


def check_clip(model: ModelPatcher, clip: CLIP) -> None:
    """Raise ValueError if the CLIP's conditioning does not have the MODEL's width."""
    numbers = model.model.model_config.unet_config
    needed = next((numbers[name] for name in CONTEXT_WIDTHS if name in numbers), None)
    if "context_embedder_config" in numbers:
        needed = numbers["context_embedder_config"]["params"]["in_features"]
    encoded: Any = clip.encode_from_tokens(clip.tokenize(""), return_pooled=True)
    width = encoded[0].shape[-1]
    if isinstance(needed, int) and width != needed:
        raise ValueError(
            f"This CLIP makes conditioning {width} wide and the MODEL ({family_of(model)}) takes "
            f"{needed}: connect the CLIP that belongs to the MODEL."
        )


def check_vae(model: ModelPatcher, vae: VAE) -> None:
    """Raise ValueError if the VAE's latents do not have the MODEL's channels."""
    channels = model.model.latent_format.latent_channels
    if vae.latent_channels != channels:
        raise ValueError(
            f"This VAE makes latents of {vae.latent_channels} channels and the MODEL takes "
            f"{channels}: connect the VAE that belongs to the MODEL."
        )
