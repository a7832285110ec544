"""ComfyUI's VAE as the engine's LatentCodec: pictures in, the host's raw latents out."""

from __future__ import annotations

from typing import Any

import comfy.model_management as management
import torch
from comfy.sd import VAE
from torch import Tensor

from ...training.ports import LatentCodec
from .digests import model_digest

PIXELS_AT_ONCE = 1024 * 1024
"""Pixels to encode at once on a GPU: one picture of SDXL's size or four of SD1.5's."""


class HostLatentCodec:
    def __init__(self, vae: VAE):
        self._vae = vae

    def together(self, width: int, height: int) -> int:
        """How many pictures of a size to encode at once."""
        # On a CPU one picture keeps every core busy, and alone it leaves the latents of the
        # others as they are. A VAE for videos would read a batch as the frames of one video.
        if self._vae.latent_dim != 2 or management.is_device_cpu(self._vae.device):
            return 1
        return max(1, PIXELS_AT_ONCE // (width * height))

    def encode(self, pixels: Tensor) -> Tensor:
        """(batch, height, width, 3) in 0..1 to raw latents on the CPU, as VAE Encode gives them."""
        parts = pixels.split(1) if self._vae.latent_dim == 3 else [pixels]
        self._make_room(len(parts[0]), pixels)
        return torch.cat([self._vae.encode(part).detach().float().cpu() for part in parts]).clone()

    @property
    def step(self) -> int:
        """The host encodes sides that are multiples of this, and crops others around the middle."""
        step: Any = self._vae.spacial_compression_encode()
        return step if self._vae.crop_input else 1

    def latent_shape(self, width: int, height: int) -> tuple[int, ...] | None:
        """The shape of a picture's latent as far as the host states it; None for videos' VAEs."""
        if self._vae.latent_dim != 2:
            return None
        side: Any = self._vae.spacial_compression_encode()
        return self._vae.latent_channels, height // side, width // side

    def overflow(self, names: str) -> str:
        """Why the latents of images are not finite, and the cure."""
        kind = type(self._vae.first_stage_model).__name__
        dtype = str(self._vae.vae_dtype).removeprefix("torch.")
        cure = {
            torch.float16: "start ComfyUI with --fp32-vae or --bf16-vae, or connect another VAE",
            torch.bfloat16: "start ComfyUI with --fp32-vae, or connect another VAE",
        }.get(self._vae.vae_dtype, "its file is damaged or does not belong here: connect another")
        return (
            f"The VAE ({kind}, computing in {dtype}) gives NaN or infinite values for {names}: "
            f"{cure}."
        )

    def _make_room(self, count: int, pixels: Tensor) -> None:
        """Free the memory of other models, for which the host would otherwise split a batch."""
        if count > 1:
            shape = (count, 3, *pixels.shape[1:3])
            each = self._vae.memory_used_encode(shape, self._vae.vae_dtype)
            management.load_models_gpu([self._vae.patcher], memory_required=count * each)

    def digest(self) -> str:
        return model_digest(self._vae.patcher)


_: type[LatentCodec] = HostLatentCodec
