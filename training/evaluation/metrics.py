"""Similarity of pictures, texts and sets of pictures, from the features of a vision model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

WEIGHT = 2.5


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipScore:
    """Means over all pairs: the plain cosine, and w max(cos, 0) with w = 2.5."""

    cosine: float
    score: float


def clip_score(cosines: Tensor) -> ClipScore:
    """CLIPScore of Hessel et al. 2021 (arXiv 2104.08718, section 3) from cosines of any shape."""
    return ClipScore(
        cosine=cosines.mean().item(), score=(WEIGHT * cosines.clamp(min=0)).mean().item()
    )


def paired_cosines(pictures: Tensor, texts: Tensor) -> Tensor:
    """Cosine of each row of (n, d) with the same row of another (n, d): (n,) in fp64."""
    _check_features(pictures, texts)
    return (normalize(pictures.double(), dim=1) * normalize(texts.double(), dim=1)).sum(dim=1)


def all_cosines(pictures: Tensor, references: Tensor) -> Tensor:
    """Cosine of each row of (n, d) with each row of (m, d): (n, m) in fp64.

    Their mean is the CLIP-I of Ruiz et al. 2022 (arXiv 2208.12242).
    """
    _check_features(pictures, references)
    return normalize(pictures.double(), dim=1) @ normalize(references.double(), dim=1).T


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Frechet distance of Gaussians fitted to features (n, d) and (m, d).

    Heusel et al. 2017 (arXiv 1706.08500, eq. 6): |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).
    With C = F^T F the trace of the root is the sum of the singular values of F1 F2^T, because
    C1 C2 and (F1 F2^T)(F1 F2^T)^T share their eigenvalues. No root of a near-zero eigenvalue is
    taken, so that sets smaller than d are as exact as large ones.
    """
    _check_features(first, second)
    (mean_1, factor_1), (mean_2, factor_2) = _gaussian(first), _gaussian(second)
    roots = _singular_values(factor_1 @ factor_2.T)
    spread = factor_1.square().sum() + factor_2.square().sum() - 2 * roots.sum()
    return max(((mean_1 - mean_2).square().sum() + spread).item(), 0.0)


def normalized_distance(distance: float, base_distance: float) -> float:
    """A distance as a share of the base model's: 1 means no closer. ValueError if that is 0."""
    if base_distance <= 0:
        raise ValueError(
            "The base model's images do not differ from the reference pictures: connect "
            "images that the base model made."
        )
    return distance / base_distance


def mean_difference(first: Tensor, second: Tensor) -> float:
    """Mean absolute difference of pictures of one shape in 0..1: 0 = the same, 1 = opposites."""
    return (first - second).abs().mean().item()


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and a factor F (at most d, d) of the unbiased covariance F^T F, in fp64."""
    count, width = features.shape
    if count < 2:
        raise ValueError(f"A Frechet distance needs 2 or more images in each set: {count} given.")
    exact = features.double()
    mean = exact.mean(dim=0)
    factor = (exact - mean) / (count - 1) ** 0.5
    if count > width:
        factor = torch.geqrf(factor).a[:width].triu()  # the R of its QR decomposition
    return mean, factor


def _singular_values(matrix: Tensor) -> Tensor:
    return torch.linalg.svdvals(matrix)  # pyright: ignore


def _check_features(first: Tensor, second: Tensor) -> None:
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"Features {first.shape[1]} and {second.shape[1]} wide cannot be compared: take both "
            "from one model."
        )
    if not (first.isfinite().all() and second.isfinite().all()):
        raise ValueError("The features hold NaN or infinity: look at the images for black ones.")
