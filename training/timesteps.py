"""Where in a schedule the samples lie: densities of positions in [0, 1), 0 being the cleanest."""

from __future__ import annotations

import math
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor

MODE_LIMIT = 2 / (math.pi - 2)
"""The largest scale at which the mode density still is one (Esser et al. 2024, section 3.1)."""
_BELOW_ONE = math.nextafter(1, 0)


class Density(str, Enum):
    """Densities of schedule positions."""

    UNIFORM = "uniform"
    LOGIT_NORMAL = "logit-normal"
    MODE = "mode"


class Timesteps(Protocol):
    """What is set of the density."""

    @property
    def density(self) -> Density: ...
    @property
    def logit_mean(self) -> float: ...
    @property
    def logit_std(self) -> float: ...
    @property
    def mode_scale(self) -> float: ...
    @property
    def shift(self) -> float: ...


def draw_position(settings: Timesteps, draw: torch.Generator) -> Tensor:
    """A schedule position in [0, 1) in fp64, a scalar.

    The densities are those of Esser et al. 2024 (arXiv 2403.03206, section 3.1) in their own
    sense, a larger position being noisier, drawn by diffusers; the shift is their eq. 23, and
    comes on top of the shift that the model's schedule has.
    """
    if settings.density is Density.UNIFORM:
        position = torch.rand((), generator=draw, dtype=torch.float64)
    else:
        position = _density_of_diffusers(settings, draw)
    s = settings.shift
    return (s * position / (1 + (s - 1) * position)).clamp(0, _BELOW_ONE)


def check_density(settings: Timesteps) -> None:
    """Raise ImportError with the line to run when the density cannot be drawn."""
    if settings.density is not Density.UNIFORM:
        _density_of_diffusers(settings, torch.Generator())


def _density_of_diffusers(settings: Timesteps, draw: torch.Generator) -> Tensor:
    try:
        from diffusers.training_utils import compute_density_for_timestep_sampling
    except ImportError as missing:
        raise ImportError(
            f"The {settings.density.value} density needs diffusers, which is not installed: "
            "run pip install diffusers"
        ) from missing
    drawn = compute_density_for_timestep_sampling(
        settings.density.value.replace("-", "_"),
        batch_size=1,
        logit_mean=settings.logit_mean,
        logit_std=settings.logit_std,
        mode_scale=settings.mode_scale,
        generator=draw,
    )
    return drawn[0].double()
