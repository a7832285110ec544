"""Which model family a MODEL is of, and whether a CLIP, a VAE and a bundle go with it."""

from __future__ import annotations

import comfy.model_base
import comfy.supported_models
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE

FAMILIES = {
    "sd15": comfy.supported_models.SD15,
    "sd2": comfy.supported_models.SD20,
    "sdxl": comfy.supported_models.SDXL,
}
"""Families that bundles name, with the host's class that all their kinds derive from."""


def family_of(model: ModelPatcher) -> str:
    """A short name such as sd15 or sdxl; the host's own class name for families without one."""
    config = model.model.model_config
    if isinstance(model.model, comfy.model_base.SDXL):
        return "sdxl"
    named = (name for name, kind in FAMILIES.items() if isinstance(config, kind))
    return next(named, type(config).__name__.lower())


def check_bundle(model: ModelPatcher, family: str) -> None:
    """Raise ValueError when a bundle was made for another family than the MODEL's.

    Nothing else would tell: SD1.5 and SDXL share layer names and the width of an encoder.
    """
    found = family_of(model)
    if found in FAMILIES and family in FAMILIES and found != family:
        raise ValueError(
            f"The bundle was made for {family} and the MODEL is {found}: connect a MODEL and a "
            f"CLIP of {family}, or choose another bundle."
        )


def check_clip(model: ModelPatcher, clip: CLIP) -> None:
    """Raise ValueError when the CLIP's conditioning is not as wide as the MODEL wants it."""
    wanted = model.model.model_config.unet_config.get("context_dim")
    made = clip.encode_from_tokens(clip.tokenize(""), return_pooled=True)[0].shape[-1]
    if isinstance(wanted, int) and made != wanted:
        raise ValueError(
            f"This CLIP makes conditioning {made} wide and the MODEL ({family_of(model)}) takes "
            f"{wanted}: connect the CLIP that belongs to the MODEL."
        )


def check_vae(model: ModelPatcher, vae: VAE) -> None:
    """Raise ValueError when the VAE's latents do not have the MODEL's channels."""
    wanted = model.model.latent_format.latent_channels
    if vae.latent_channels != wanted:
        raise ValueError(
            f"This VAE makes latents of {vae.latent_channels} channels and the MODEL takes "
            f"{wanted}: connect the VAE that belongs to the MODEL."
        )
