"""TriLoRA (Feng et al. 2024, arXiv 2405.11236): a weight change of three matrices, s B C A."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..ports import Layer
from ..randomness import generator
from .base import Adapter, RankedConfig, check_rank
from .factors import apply_low_rank
from .lora import LOW_RANK_SUFFIXES, low_rank_tensors

OVERSAMPLING, LEAST = 16, 80
"""Columns of the sketch beyond the values asked for, and the fewest that are worth a call."""
POWER_ITERATIONS = 3


class Core(str, Enum):
    """The middle matrix: diagonal (the text of the paper) or full (its figure 1)."""

    DIAGONAL = "diagonal"
    FULL = "full"


class Sigma(str, Enum):
    """Initial values of the middle matrix."""

    PAPER = "singular values"
    SCALED = "scaled singular values"
    IDENTITY = "identity"


class TriLora(Adapter):
    """B [out, r2] Gaussian, C [r2, r1] from singular values, A [r1, in] zero; all three train."""

    suffixes = LOW_RANK_SUFFIXES

    def __init__(self, layer: Layer, config: TriLoraConfig, rng: torch.Generator):
        super().__init__()
        self.conv = layer.conv
        self.scale, self.orthogonality = config.scale, config.orthogonality
        r1, r2 = config.rank, config.outer_rank
        self.a = nn.Parameter(torch.zeros(r1, *layer.shape[1:]))
        self.b = nn.Parameter(torch.randn(layer.shape[0], r2, generator=rng) / r2)
        sigma = starting_values(layer, min(r1, r2), config.sigma)
        if config.core is Core.DIAGONAL:
            self.c = nn.Parameter(sigma)
        else:
            self.c = nn.Parameter(core_matrix(sigma, r2, r1))

    def core(self) -> Tensor:
        """C as a matrix, (r2, r1)."""
        r1, r2 = self.a.shape[0], self.b.shape[1]
        return core_matrix(self.c, r2, r1) if self.c.ndim == 1 else self.c

    def forward(self, x: Tensor) -> Tensor:
        """s B C A x in the dtype of x; the factors stay in fp32."""
        up, down = self._factors()
        return apply_low_rank(x, down.to(x.dtype), up.to(x.dtype), self.conv)

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """s C A and B, of a Linear."""
        up, down = self._factors()
        return None if self.conv is not None else (down, up)

    def _factors(self) -> tuple[Tensor, Tensor]:
        """B and s C A; a diagonal C only scales the rows of A."""
        if self.c.ndim == 2:
            inner = self.scale * self.c @ self.a.flatten(1)
            return self.b, inner.view(-1, *self.a.shape[1:])
        count = len(self.c)
        rows = (self.scale * self.c).view(-1, *[1] * (self.a.ndim - 1))
        return self.b[:, :count], rows * self.a[:count]

    def penalty(self) -> Tensor | None:
        """How far B and A are from orthogonal, as the paper asks; None if switched off.

        |B'B - I|^2 + |A A' - I|^2; A starts at zero and is pulled to unit rows.
        """
        if self.orthogonality == 0:
            return None
        a = self.a.flatten(1)
        gaps = (self.b.T @ self.b, a @ a.T)
        eyes = (torch.eye(len(gap), device=gap.device) for gap in gaps)
        errors = [(gap - eye).square().sum() for gap, eye in zip(gaps, eyes, strict=True)]
        return self.orthogonality * (errors[0] + errors[1])

    def tensors(self) -> Mapping[str, Tensor]:
        """An ordinary LoRA of rank min(r1, r2): C is folded into the smaller side, exactly."""
        a, b, c = self.a.detach(), self.b.detach(), self.core().detach()
        if len(a) <= b.shape[1]:
            return low_rank_tensors(b @ c, a, self.scale)
        down = (c @ a.flatten(1)).view(-1, *a.shape[1:])
        return low_rank_tensors(b, down, self.scale)


def core_matrix(values: Tensor, rows: int, columns: int) -> Tensor:
    """A (rows, columns) matrix with `values` on its diagonal."""
    return functional.pad(values.diag(), (0, columns - len(values), 0, rows - len(values)))


def starting_values(layer: Layer, count: int, sigma: Sigma) -> Tensor:
    """The `count` initial values of C, in descending order."""
    if sigma is Sigma.IDENTITY:
        return torch.ones(count)
    values = singular_values(layer, count)
    # Layers that start at zero have no largest value to divide by.
    return values if sigma is Sigma.PAPER or not values[0] > 0 else values / values[0]


def singular_values(layer: Layer, count: int) -> Tensor:
    """The `count` largest singular values of the weight as a matrix (out, in * kernel), fp32.

    Randomized SVD with power iterations (Halko, Martinsson and Tropp 2011, arXiv 0909.4061).
    They depend on the weight alone, not on a run's seed, so that they can be kept.
    """
    if layer.weight is None:
        raise ValueError(
            f"{layer.name} has no weight to take singular values from: choose the sigma "
            f'"identity", or leave the layer out with a line -{layer.name} in patterns.'
        )
    weight = layer.weight().flatten(1)
    if layer.kept is None:
        return _checked_values(layer, weight, count)
    key = cache_key(weight, count)
    kept = layer.kept.get(key)
    if kept is None or not _fits(kept, min(count, *weight.shape)):
        kept = layer.kept[key] = _checked_values(layer, weight, count)
    return kept.clone()


def cache_key(weight: Tensor, count: int) -> str:
    """Cache key: a digest of the weight, and how many singular values are needed."""
    digest = hashlib.sha256(repr(tuple(weight.shape)).encode())
    digest.update(weight.contiguous().numpy().data)
    return f"{digest.hexdigest()}.{count}"


def _fits(values: Tensor, count: int) -> bool:
    """Whether a cached tensor can be the singular values: so many, finite and not negative."""
    return values.shape == (count,) and bool((values.isfinite() & (values >= 0)).all())


def _checked_values(layer: Layer, weight: Tensor, count: int) -> Tensor:
    """The values; ValueError, before they are cached, for a weight that is not finite."""
    if not weight.isfinite().all():
        raise ValueError(
            f"The weight of {layer.name} has NaN or infinite values: load an undamaged MODEL, or "
            f"leave the layer out with a line -{layer.name} in patterns."
        )
    return _leading_values(weight, count)


def _leading_values(weight: Tensor, count: int) -> Tensor:
    """By torch, which draws its test matrix from the global generator; that is put back."""
    rank = min(max(count + OVERSAMPLING, LEAST), *weight.shape)
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(generator("singular values").initial_seed())  # pyright: ignore[reportUnknownMemberType]
        return torch.svd_lowrank(weight, q=rank, niter=POWER_ITERATIONS)[1][:count].clone()


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class TriLoraConfig(RankedConfig):
    """Settings of TriLoRA."""

    rank: int = 16
    """r1, rows of A"""
    rank_out: int = 0
    """r2, columns of B; 0 means the same as rank"""
    alpha: float = 0.0
    """s = alpha / min(r1, r2); 0 means min(r1, r2), the paper's s = 1"""
    core: Core = Core.DIAGONAL
    sigma: Sigma = Sigma.SCALED
    orthogonality: float = 0.0
    """Weight of the penalty that keeps B and A near orthogonal"""

    def __post_init__(self) -> None:
        if self.rank_out < 0:
            raise ValueError(f"rank_out is {self.rank_out}: use 0 (the same as rank) or more.")
        if self.orthogonality < 0:
            raise ValueError(f"orthogonality is {self.orthogonality}: use 0 (off) or more.")
        RankedConfig.__post_init__(self)

    def check_alpha(self) -> None:
        """An alpha of 0 means the rank."""
        if self.alpha < 0:
            raise ValueError(f"alpha is {self.alpha}: use 0 (the rank) or more.")

    @property
    def outer_rank(self) -> int:
        """r2."""
        return self.rank_out or self.rank

    @property
    def scale(self) -> float:
        """s in s B C A."""
        smaller = min(self.rank, self.outer_rank)
        return (self.alpha or smaller) / smaller

    def reads_singular_values(self) -> bool:
        """Yes, unless the middle matrix starts from ones."""
        return self.sigma is not Sigma.IDENTITY

    def build(self, layer: Layer, rng: torch.Generator) -> TriLora:
        """A TriLoRA for the layer; ValueError if a rank does not fit it."""
        check_rank(layer, max(self.rank, self.outer_rank))
        return TriLora(layer, self, rng)
