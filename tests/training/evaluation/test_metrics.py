"""Scores of pictures and sets of pictures, against scipy and hand-made features."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from pack.training.evaluation.metrics import (
    all_cosines,
    clip_score,
    frechet_distance,
    mean_difference,
    normalized_distance,
    paired_cosines,
)

UP, RIGHT = [0.0, 3.0], [5.0, 0.0]


def features(count: int, width: int, seed: int, scale: float = 1.0) -> Tensor:
    """Correlated features with a mean of their own, as a vision model makes them: fp32."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    mean = torch.randn(width, generator=generator)
    return scale * (torch.randn(count, width, generator=generator) @ mixing) + mean


def reference(first: Tensor, second: Tensor) -> float:
    """The formula of Heusel et al. with scipy's matrix square root of the covariance product."""
    a, b = first.double().numpy(), second.double().numpy()
    product = np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(product).real
    gap = a.mean(axis=0) - b.mean(axis=0)
    trace = np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root)
    return float(gap @ gap + trace)


def symmetric_reference(first: Tensor, second: Tensor) -> float:
    """The same through tr (C1^(1/2) C2 C1^(1/2))^(1/2), which exists for singular covariances."""
    a, b = first.double().numpy(), second.double().numpy()
    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = scipy.linalg.eigh(c1)
    half = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(scipy.linalg.eigvalsh(half @ c2 @ half).clip(min=0)).sum()
    gap = a.mean(axis=0) - b.mean(axis=0)
    return float(gap @ gap + np.trace(c1) + np.trace(c2) - 2 * cross)


def test_paired_cosines_are_those_of_the_rows():
    pictures = torch.tensor([UP, RIGHT, UP])
    texts = torch.tensor([UP, UP, [0.0, -1.0]])
    assert paired_cosines(pictures, texts).tolist() == [1.0, 0.0, -1.0]


def test_all_cosines_compare_each_picture_with_each_reference():
    found = all_cosines(torch.tensor([UP, RIGHT]), torch.tensor([UP, RIGHT, [1.0, 1.0]]))
    half = math.sqrt(0.5)
    torch.testing.assert_close(
        found, torch.tensor([[1, 0, half], [0, 1, half]], dtype=torch.float64), atol=1e-7, rtol=0
    )


def test_clip_score_cuts_each_negative_cosine_and_the_plain_cosine_does_not():
    found = clip_score(torch.tensor([0.4, -0.2], dtype=torch.float64))
    assert found.cosine == pytest.approx(0.1)
    assert found.score == pytest.approx(2.5 * 0.4 / 2)


@pytest.mark.parametrize(("count", "other"), [(300, 200), (64, 40)])
def test_the_frechet_distance_is_that_of_scipys_matrix_square_root(count: int, other: int):
    first, second = features(count, 16, seed=1), features(other, 16, seed=2, scale=1.5)
    assert frechet_distance(first, second) == pytest.approx(reference(first, second), rel=1e-9)


@pytest.mark.parametrize(("count", "other"), [(5, 7), (2, 2), (5, 300), (300, 5), (16, 17)])
def test_the_frechet_distance_holds_for_fewer_pictures_than_features(count: int, other: int):
    first, second = features(count, 16, seed=3), features(other, 16, seed=4)
    expected = symmetric_reference(first, second)
    # The reference takes roots of eigenvalues that are 0 but for rounding.
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-5)


def test_the_frechet_distance_of_gaussians_that_are_known():
    """In one dimension it is (m1 - m2)^2 + (s1 - s2)^2."""
    first = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]])
    second = 3 * first + 10
    spread = 2 * math.sqrt(4 / 3)
    assert frechet_distance(first, second) == pytest.approx(100 + spread**2, rel=1e-12)


@pytest.mark.parametrize("count", [3, 500])
def test_the_frechet_distance_of_a_set_to_itself_is_nothing(count: int):
    same = features(count, 16, seed=5)
    size = same.double().var(dim=0).sum().item()
    assert 0 <= frechet_distance(same, same.flip(0)) < 1e-12 * size


def test_the_frechet_distance_is_symmetric_and_ignores_the_order_of_pictures():
    first, second = features(9, 16, seed=6), features(30, 16, seed=7)
    found = frechet_distance(first, second)
    assert frechet_distance(second, first) == pytest.approx(found, rel=1e-12)
    assert frechet_distance(first.flip(0), second) == pytest.approx(found, rel=1e-12)


def test_a_distance_is_normalized_by_the_base_models():
    assert normalized_distance(30.0, 40.0) == 0.75
    with pytest.raises(ValueError, match="do not differ from the reference pictures"):
        normalized_distance(1.0, 0.0)


def test_mean_difference_is_a_share_of_the_range():
    black, white = torch.zeros(2, 2, 3), torch.ones(2, 2, 3)
    assert mean_difference(black, white) == 1.0
    assert mean_difference(white, white) == 0.0


def test_one_picture_has_no_spread_to_compare():
    with pytest.raises(ValueError, match="needs 2 or more images in each set: 1 given"):
        frechet_distance(features(1, 4, seed=0), features(5, 4, seed=0))


def test_features_of_two_models_are_refused():
    with pytest.raises(ValueError, match="Features 4 and 5 wide cannot be compared"):
        all_cosines(features(2, 4, seed=0), features(2, 5, seed=0))


def test_features_that_are_not_numbers_are_refused():
    broken = features(3, 4, seed=0)
    broken[1, 2] = torch.nan
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        frechet_distance(features(3, 4, seed=0), broken)
