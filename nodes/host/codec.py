"""The VAE port: pictures in, the host's raw latents out."""

from __future__ import annotations

import comfy.model_management as management
import torch
from comfy.sd import VAE
from torch import Tensor

from .digests import model_digest

AT_ONCE = 1024 * 1024
"""Pixels that are encoded at once on a GPU: one picture as SDXL takes it, or four of SD1.5's."""


class HostLatentCodec:
    """The host's VAE as the engine's LatentCodec."""

    def __init__(self, vae: VAE):
        self._vae = vae

    def together(self, width: int, height: int) -> int:
        """How many pictures go at once: as many as there is room for, on a CPU one by one.

        There one picture keeps every core busy, and one by one a picture that joins a dataset
        leaves the latents of the others as they are. A VAE of videos would read a batch as the
        frames of one.
        """
        if self._vae.latent_dim != 2 or management.is_device_cpu(self._vae.device):
            return 1
        return max(1, AT_ONCE // (width * height))

    def encode(self, pixels: Tensor) -> Tensor:
        """(batch, height, width, 3) in 0..1 -> raw latents on the CPU, as VAE Encode gives them."""
        parts = pixels.split(1) if self._vae.latent_dim == 3 else [pixels]
        self._make_room(len(parts[0]), pixels)
        return torch.cat([self._vae.encode(part).detach().float().cpu() for part in parts]).clone()

    @property
    def step(self) -> int:
        """Pixels that the host wants a multiple of; from larger pictures it takes the middle."""
        return self._vae.spacial_compression_encode() if self._vae.crop_input else 1

    def _make_room(self, count: int, pixels: Tensor) -> None:
        """See that the host does not part a batch because other models take the memory."""
        if count > 1:
            shape = (count, 3, *pixels.shape[1:3])
            each = self._vae.memory_used_encode(shape, self._vae.vae_dtype)
            management.load_models_gpu([self._vae.patcher], memory_required=count * each)

    def digest(self) -> str:
        """Which VAE it is, in a few characters."""
        return model_digest(self._vae.patcher)
