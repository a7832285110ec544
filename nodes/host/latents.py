"""The VAE port: pictures in, the host's raw latents out."""

from __future__ import annotations

from comfy.sd import VAE
from torch import Tensor

from .run_folder import model_digest


class HostLatentCodec:
    """The host's VAE as the engine's LatentCodec."""

    def __init__(self, vae: VAE):
        self._vae = vae

    def encode(self, pixels: Tensor) -> Tensor:
        """(batch, height, width, 3) in 0..1 -> raw latents on the CPU, as VAE Encode gives them."""
        return self._vae.encode(pixels).detach().float().cpu().clone()

    def digest(self) -> str:
        """Which VAE it is, in a few characters."""
        return model_digest(self._vae.patcher)
