"""Densities of schedule positions against the formulas of their paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pack.training.data import draw_batch
from pack.training.objective import MODE_LIMIT, Density, ObjectiveConfig, draw_position
from pack.training.randomness import generator
from training.toys import toy_data

COUNT = 4000


def drawn(**settings: object) -> Tensor:
    config = ObjectiveConfig(**settings)
    return torch.stack([draw_position(config, generator("t", i)) for i in range(COUNT)])


def distance(found: Tensor, distribution: Tensor) -> float:
    """Kolmogorov and Smirnov's: the largest gap between two distribution functions."""
    steps = torch.arange(1, COUNT + 1) / COUNT
    return (distribution - steps).abs().max().item()


BOUND = 1.63 / COUNT**0.5
"""Of that distance, exceeded by one in a hundred fair samples."""


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_uniform_positions_are_shifted_as_the_paper_says(shift: float):
    """Esser et al. 2024, eq. 23: t = s u / (1 + (s - 1) u), so u = t / (s - (s - 1) t)."""
    t = drawn(shift=shift).sort().values
    assert distance(t, t / (shift - (shift - 1) * t)) < BOUND


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.5)])
def test_logit_normal_positions_have_a_normal_logit(mean: float, std: float):
    t = drawn(density=Density.LOGIT_NORMAL, logit_mean=mean, logit_std=std).sort().values
    z = (torch.logit(t) - mean) / std
    assert distance(t, 0.5 * (1 + torch.erf(z / math.sqrt(2)))) < BOUND


@pytest.mark.parametrize("scale", [1.29, -0.8, MODE_LIMIT])
def test_mode_positions_are_the_papers_map_of_uniform_ones(scale: float):
    t = drawn(density=Density.MODE, mode_scale=scale).sort().values
    u = torch.linspace(0, 1, 20001, dtype=torch.float64)
    mapped = 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    # The map falls, so the share of positions below t is that of the u above its inverse.
    inverse = u[torch.searchsorted(mapped.flip(0).contiguous(), t).clamp(max=20000)]
    assert distance(t, inverse) < BOUND


def test_a_larger_mean_is_noisier_and_no_position_is_1():
    means = [drawn(density=Density.LOGIT_NORMAL, logit_mean=m).mean().item() for m in (-1.0, 1.0)]
    assert means[0] < 0.4 < 0.6 < means[1]
    assert drawn(density=Density.LOGIT_NORMAL, logit_mean=60.0).max() < 1


def test_a_density_moves_nothing_else_that_is_drawn():
    """Captions, noise and the order stay those of the seed."""
    data = toy_data(["one", "two"])
    config = ObjectiveConfig(shift=4.0)
    plain, shifted = draw_batch(data, 1, 3, 0.5), draw_batch(data, 1, 3, 0.5, config)
    assert torch.equal(plain.noise, shifted.noise) and plain.captions == shifted.captions
    assert (shifted.positions > plain.positions).all()


def test_without_diffusers_the_error_says_what_to_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers.training_utils", None)
    with pytest.raises(ImportError, match="logit-normal density needs diffusers.*pip install"):
        drawn(density=Density.LOGIT_NORMAL)
