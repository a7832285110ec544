"""The VAE port: pictures in, the host's raw latents out."""

from __future__ import annotations

import torch
from comfy.sd import VAE
from torch import Tensor

from .run_folder import model_digest


class HostLatentCodec:
    """The host's VAE as the engine's LatentCodec."""

    def __init__(self, vae: VAE):
        self._vae = vae

    def encode(self, pixels: Tensor) -> Tensor:
        """(batch, height, width, 3) in 0..1 -> raw latents on the CPU, as VAE Encode gives them.

        A VAE of videos would read a batch of pictures as the frames of one.
        """
        parts = pixels.split(1) if self._vae.latent_dim == 3 else [pixels]
        return torch.cat([self._vae.encode(part).detach().float().cpu() for part in parts]).clone()

    @property
    def step(self) -> int:
        """Pixels that the host wants a multiple of; from larger pictures it takes the middle."""
        return self._vae.spacial_compression_encode() if self._vae.crop_input else 1

    def digest(self) -> str:
        """Which VAE it is, in a few characters."""
        return model_digest(self._vae.patcher)
