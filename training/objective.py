"""Loss weightings and the settings of what is minimized, as pure functions of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from .ports import Noised


class Prior(str, Enum):
    """What keeps the model's knowledge of the class while a concept is learned."""

    NONE = "none"
    BASE = "base model"
    PICTURES = "class pictures"


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """What a training step minimizes."""

    min_snr_gamma: float = 5.0
    """Min-SNR cap for noise- and v-prediction models; 0 switches it off."""
    noise_offset: float = 0.0
    """Weight of noise that is constant over each channel of a latent."""
    caption_dropout: float = 0.0
    """Share of the samples that train with an empty caption."""
    prior: Prior = Prior.NONE
    prior_weight: float = 1.0
    """Weight of the prior's loss beside the loss of the pictures."""

    def __post_init__(self) -> None:
        if self.min_snr_gamma < 0:
            raise ValueError(f"min_snr_gamma is {self.min_snr_gamma}: use 0 (off) or more.")
        if self.noise_offset < 0:
            raise ValueError(f"noise_offset is {self.noise_offset}: use 0 (off) or more.")
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"caption_dropout is {self.caption_dropout}: use 0 to 1.")
        if self.prior_weight < 0:
            raise ValueError(f"prior_weight is {self.prior_weight}: use 0 or more.")


def min_snr_weight(snr: Tensor, gain: Tensor, gamma: float) -> Tensor:
    """Weight of the loss on the network's output, (batch,).

    Hang et al. 2023 (arXiv 2303.09556, eq. 7) weigh the error of the denoised picture by
    min(SNR, gamma). An output error is `gain` times a picture error, whatever is predicted:
    min(SNR, gamma) / SNR for noise and min(SNR, gamma) / (SNR + 1) for v follow from it.
    """
    return snr.clamp(max=gamma) * gain.square()


def sample_weights(noised: Noised, config: ObjectiveConfig, *, is_flow: bool) -> Tensor:
    """(batch,) weights of the samples' losses; flow models have no SNR schedule to even out."""
    if config.min_snr_gamma == 0 or is_flow:
        return torch.ones_like(noised.snr)
    return min_snr_weight(noised.snr, noised.gain, config.min_snr_gamma)


def weighted_mse(
    output: Tensor, target: Tensor, weights: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Mean over the batch of `sample_errors`, a scalar."""
    return sample_errors(output, target, weights, mask).mean()


def sample_errors(
    output: Tensor, target: Tensor, weights: Tensor, mask: Tensor | None = None
) -> Tensor:
    """(batch,) weight times mean squared error of each sample.

    The mask, (batch, height, width), says how much each place counts. The error of a sample is
    the mean over what counts, sum(mask * error) / sum(mask), so that a small subject trains as
    strongly as a large one.
    """
    error = (output - target).square()
    return masked_mean(error, mask) * weights.to(error)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """(batch, channels, ..., height, width) to (batch,), each place weighed by the mask."""
    if mask is None:
        return values.flatten(1).mean(dim=1)
    between = [1] * (values.ndim - mask.ndim)
    share = mask.to(values).reshape(len(mask), *between, *mask.shape[1:]).expand_as(values)
    return (values * share).flatten(1).sum(dim=1) / share.flatten(1).sum(dim=1)


def offset_noise(noise: Tensor, offset: Tensor, weight: float) -> Tensor:
    """Noise (batch, channels, ...) plus `weight` times the offset (batch, channels).

    Lets a model learn overall brightness, which plain noise never hides (Guttenberg 2023).
    """
    if weight == 0:
        return noise
    return noise + weight * offset.reshape(*offset.shape, *[1] * (noise.ndim - 2))
