"""What a step minimizes: where in the schedule its samples lie and how their errors count."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from .ports import Noised

MODE_LIMIT = 2 / (math.pi - 2)
"""The largest scale of the mode density for which it is one (Esser et al. 2024, section 3.1)."""
_BELOW_ONE = math.nextafter(1, 0)


class Density(str, Enum):
    """Densities of schedule positions in [0, 1), 0 being the cleanest."""

    UNIFORM = "uniform"
    LOGIT_NORMAL = "logit-normal"
    MODE = "mode"


class Prior(str, Enum):
    """How the model's knowledge of the class is preserved while a concept is learned."""

    NONE = "none"
    BASE = "base model"
    PICTURES = "class pictures"


class Weighting(str, Enum):
    """How samples at different noise levels are weighted."""

    MIN_SNR = "min-SNR"
    DEBIASED = "debiased"
    NONE = "none"


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
    """Weight of the prior's loss, where the loss of the pictures has 1."""
    prior_batch: int = 0
    """Class pictures in a batch; 0 means as many as pictures."""
    weighting: Weighting = Weighting.MIN_SNR
    huber: float = 0.0
    """Error above which the loss grows linearly; 0 means mean squared error."""
    density: Density = Density.UNIFORM
    """Distribution of the samples over the schedule."""
    logit_mean: float = 0.0
    """Of the logit-normal density: above 0 is noisier"""
    logit_std: float = 1.0
    mode_scale: float = 1.29
    """Of the mode density: above 0 prefers the middle, below 0 the ends"""
    shift: float = 1.0
    """Further shift of the positions: above 1 is noisier"""
    guidance: float = 0.0
    """Guidance passed to guidance-distilled models; 0 uses ComfyUI's default."""
    negative_guidance: float = 5.0
    """Guidance scale of the prediction that concepts with negative vectors train on."""

    def __post_init__(self) -> None:
        if self.min_snr_gamma < 0:
            raise ValueError(f"min_snr_gamma is {self.min_snr_gamma}: use 0 (off) or more.")
        if self.noise_offset < 0:
            raise ValueError(f"noise_offset is {self.noise_offset}: use 0 (off) or more.")
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"caption_dropout is {self.caption_dropout}: use 0 to 1.")
        if self.huber < 0:
            raise ValueError(f"huber is {self.huber}: use 0 (mean squared error) or more.")
        if self.logit_std <= 0 or self.shift <= 0:
            raise ValueError(
                f"logit_std is {self.logit_std} and shift {self.shift}: use more than 0 for both."
            )
        if not -1 <= self.mode_scale <= MODE_LIMIT:
            raise ValueError(f"mode_scale is {self.mode_scale}: use -1 to {MODE_LIMIT:.2f}.")
        if self.guidance < 0:
            raise ValueError(f"guidance is {self.guidance}: use 0 (the usual) or more.")
        if self.negative_guidance < 1:
            raise ValueError(f"negative_guidance is {self.negative_guidance}: use 1 or more.")
        if self.prior_weight < 0:
            raise ValueError(f"prior_weight is {self.prior_weight}: use 0 or more.")
        if self.prior_batch < 0:
            raise ValueError(
                f"prior_batch is {self.prior_batch}: use 0 (as many as images) or more."
            )


def draw_position(config: ObjectiveConfig, rng: torch.Generator) -> Tensor:
    """A schedule position in [0, 1) in fp64, a scalar.

    The densities are those of Esser et al. 2024 (arXiv 2403.03206, section 3.1), where a larger
    position is noisier, drawn by diffusers. The shift is their eq. 23, applied on top of the shift
    of the model's own schedule.
    """
    if config.density is Density.UNIFORM:
        position = torch.rand((), generator=rng, dtype=torch.float64)
    else:
        position = _density_of_diffusers(config, rng)
    s = config.shift
    return (s * position / (1 + (s - 1) * position)).clamp(0, _BELOW_ONE)


def check_density(config: ObjectiveConfig) -> None:
    """Raise ImportError with the line to run when the density cannot be drawn."""
    if config.density is not Density.UNIFORM:
        _density_of_diffusers(config, torch.Generator())


def _density_of_diffusers(config: ObjectiveConfig, rng: torch.Generator) -> Tensor:
    try:
        from diffusers.training_utils import compute_density_for_timestep_sampling
    except ImportError as missing:
        raise ImportError(
            f"The {config.density.value} density needs diffusers, which is not installed: "
            "run pip install diffusers"
        ) from missing
    drawn = compute_density_for_timestep_sampling(
        config.density.value.replace("-", "_"),
        batch_size=1,
        logit_mean=config.logit_mean,
        logit_std=config.logit_std,
        mode_scale=config.mode_scale,
        generator=rng,
    )
    return drawn[0].double()


def min_snr_weight(snr: Tensor, gain: Tensor, gamma: float) -> Tensor:
    """Weight of the loss on the network's output, (batch,).

    Hang et al. 2023 (arXiv 2303.09556) weight the error of the denoised picture by
    min(SNR, gamma). An output error is `gain` times a picture error, whatever is predicted:
    min(SNR, gamma) / SNR for noise and min(SNR, gamma) / (SNR + 1) for v follow from it.
    """
    return snr.clamp(max=gamma) * gain.square()


def debiased_weight(snr: Tensor, gain: Tensor) -> Tensor:
    """Weight of the loss on the network's output, (batch,).

    Yu et al. 2023 (arXiv 2310.08442) divide the loss on noise by sqrt(SNR), which weighs
    the error of the denoised picture by sqrt(SNR), whatever is predicted. The weight stops
    growing where hardly any noise is left, as in kohya's trainer.
    """
    return snr.clamp(max=1000).sqrt() * gain.square()


def sample_weights(noised: Noised, config: ObjectiveConfig, *, is_flow: bool) -> Tensor:
    """(batch,) weights of the samples; flow models have no SNR schedule to compensate."""
    if config.weighting is Weighting.DEBIASED and not is_flow:
        return debiased_weight(noised.snr, noised.gain)
    if config.weighting is Weighting.MIN_SNR and config.min_snr_gamma and not is_flow:
        return min_snr_weight(noised.snr, noised.gain, config.min_snr_gamma)
    return torch.ones_like(noised.snr)


def pointwise_error(output: Tensor, target: Tensor, huber: float) -> Tensor:
    """Squared errors; with `huber` c the pseudo-Huber 2c (sqrt(e^2 + c^2) - c), linear far out.

    As in Song and Dhariwal 2023 (arXiv 2310.14189), scaled so that
    small errors count as their square.
    """
    error = (output - target).square()
    return 2 * huber * ((error + huber**2).sqrt() - huber) if huber else error


def errors(
    output: Tensor,
    target: Tensor,
    noised: Noised,
    config: ObjectiveConfig,
    *,
    is_flow: bool,
    mask: Tensor | None = None,
) -> Tensor:
    """(batch,) what each sample adds to the objective; `target` is like the network's output.

    The one place where weights and errors meet, for the step, the prior and validation.
    """
    weights = sample_weights(noised, config, is_flow=is_flow)
    return sample_errors(output, target, weights, mask, config.huber)


def plain(config: ObjectiveConfig) -> ObjectiveConfig:
    """The objective as validation counts it: squared errors under the same weights.

    So losses of runs with and without Huber can be compared, and a run's with those of before.
    """
    return replace(config, huber=0.0)


def sample_errors(
    output: Tensor, target: Tensor, weights: Tensor, mask: Tensor | None = None, huber: float = 0.0
) -> Tensor:
    """(batch,) weight times mean error of each sample.

    The mask, (batch, height, width), weighs each place. The error of a sample is the weighted
    mean, sum(mask * error) / sum(mask), so that a small subject trains as
    strongly as a large one.
    """
    error = pointwise_error(output, target, huber)
    return masked_mean(error, mask) * weights.to(error)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """(batch, channels, ..., height, width) to (batch,), the mean weighted by the mask."""
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
