"""Pictures from prompts, made by the host's own encoder, sampler and decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management as management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from torch import Tensor

from .versions import intermediate_dtype

HostConditioning = list[Any]
"""The host's CONDITIONING."""
Callback = Callable[[int, Tensor, Tensor, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Settings of KSampler and Empty Latent Image; sizes in pixels."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    width: int
    height: int

    def text(self) -> str:
        return (
            f"{self.width} x {self.height}, {self.steps} steps, cfg {self.cfg:g}, "
            f"{self.sampler_name}, {self.scheduler}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """One picture to make; equal shots make the same picture."""

    model: ModelPatcher
    clip: CLIP
    prompt: str
    negative: str
    seed: int


def sampler_names() -> list[str]:
    return comfy.samplers.KSampler.SAMPLERS


def scheduler_names() -> list[str]:
    return comfy.samplers.KSampler.SCHEDULERS


def make_pictures(shots: Sequence[Shot], vae: VAE, sampling: Sampling) -> Tensor:
    """(shots, height, width, 3) in 0..1, each as CLIPTextEncode, KSampler and VAEDecode make it."""
    # All texts first, then all samples, then all decoding: on a small GPU each model is loaded
    # once and not once for each picture.
    conditions = _encode(shots)
    progress = _PicturesBar(shots[0].model, len(shots), sampling.steps)
    latents = [
        sample(shot.model, pair, sampling, shot.seed, progress.of(index))
        for index, (shot, pair) in enumerate(zip(shots, conditions, strict=True))
    ]
    return torch.cat([decode(vae, latent) for latent in latents])


def _encode(shots: Sequence[Shot]) -> list[tuple[HostConditioning, HostConditioning]]:
    """Positive and negative conditioning of each shot; a CLIP encodes equal texts once."""
    cache: dict[tuple[int, str], HostConditioning] = {}

    def encoded(clip: CLIP, text: str) -> HostConditioning:
        key = (id(clip), text)
        if key not in cache:
            management.throw_exception_if_processing_interrupted()
            cache[key] = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        return cache[key]

    return [(encoded(shot.clip, shot.prompt), encoded(shot.clip, shot.negative)) for shot in shots]


def sample(
    model: ModelPatcher,
    conditions: tuple[HostConditioning, HostConditioning],
    sampling: Sampling,
    seed: int,
    callback: Callback,
) -> Tensor:
    """One latent from positive and negative conditioning, as KSampler makes it."""
    latent = _empty_latent(model, sampling.width, sampling.height)
    return comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent, seed),
        sampling.steps,
        sampling.cfg,
        sampling.sampler_name,
        sampling.scheduler,
        *conditions,
        latent,
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )


def _empty_latent(model: ModelPatcher, width: int, height: int) -> Tensor:
    """The zeros of Empty Latent Image, in the shape that the model takes."""
    latent = torch.zeros(
        [1, 4, height // 8, width // 8],
        device=management.intermediate_device(),
        dtype=intermediate_dtype(),
    )
    return comfy.sample.fix_empty_latent_channels(model, latent, 8)


def decode(vae: VAE, latent: Tensor) -> Tensor:
    """(1, height, width, 3) in 0..1 from a latent."""
    management.throw_exception_if_processing_interrupted()
    pictures = vae.decode(latent)
    # Video models make frames, (batch, frames, height, width, 3): keep the first.
    return pictures[:, 0] if pictures.ndim == 5 else pictures


class _PicturesBar:
    """One progress bar for all pictures, with the host's preview of the current one."""

    def __init__(self, model: ModelPatcher, pictures: int, steps: int):
        self._steps = steps
        self._bar = comfy.utils.ProgressBar(pictures * steps)
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def of(self, index: int) -> Callback:
        """The sampler's callback for one picture; it raises when the user cancels."""

        def callback(step: int, denoised: Tensor, _: Tensor, total: int) -> None:
            management.throw_exception_if_processing_interrupted()
            done = round((index + (step + 1) / total) * self._steps)
            self._bar.update_absolute(done, preview=self._preview(denoised))

        return callback

    def _preview(self, denoised: Tensor) -> Any:
        if self._previewer is None:
            return None
        return self._previewer.decode_latent_to_preview_image("JPEG", denoised)
