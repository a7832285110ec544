"""TriLoRA (Feng et al. 2024, eq. 5-6, fig. 1): a weight's change in three matrices, s B C A."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..ports import Layer
from .base import Adapter, check_rank, is_attention

OVERSAMPLING = 8
POWER_ITERATIONS = 8


class Core(str, Enum):
    """The middle matrix: one value a direction (the paper's text) or full (its figure 1)."""

    DIAGONAL = "diagonal"
    FULL = "full"


class Sigma(str, Enum):
    """What the middle matrix starts from."""

    PAPER = "singular values"
    SCALED = "scaled singular values"
    IDENTITY = "identity"


class TriLora(Adapter):
    """B [out, r2] Gaussian, C [r2, r1] from singular values, A [r1, in] zero; all three train."""

    def __init__(self, layer: Layer, config: TriLoraConfig, draw: torch.Generator):
        super().__init__()
        self.scale, self.orthogonality = config.scale, config.orthogonality
        out, width = layer.shape
        r1, r2 = config.rank, config.outer_rank
        self.a = nn.Parameter(torch.zeros(r1, width))
        self.b = nn.Parameter(torch.randn(out, r2, generator=draw) / r2)
        sigma = starting_values(layer, min(r1, r2), config.sigma, draw)
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
        inner = (self.scale * self.core() @ self.a).to(x.dtype)
        return functional.linear(functional.linear(x, inner), self.b.to(x.dtype))

    def penalty(self) -> Tensor | None:
        """How far B and A are from the orthogonal factors of eq. 6; None when switched off.

        |B'B - I|^2 + |A A' - I|^2; A starts at zero and is pulled to unit rows.
        """
        if self.orthogonality == 0:
            return None
        gaps = (self.b.T @ self.b, self.a @ self.a.T)
        eyes = (torch.eye(len(gap), device=gap.device) for gap in gaps)
        errors = [(gap - eye).square().sum() for gap, eye in zip(gaps, eyes, strict=True)]
        return self.orthogonality * (errors[0] + errors[1])


def core_matrix(values: Tensor, rows: int, columns: int) -> Tensor:
    """A (rows, columns) matrix with `values` on its diagonal."""
    return functional.pad(values.diag(), (0, columns - len(values), 0, rows - len(values)))


def starting_values(layer: Layer, count: int, sigma: Sigma, draw: torch.Generator) -> Tensor:
    """The `count` values that C starts from, the largest first."""
    if sigma is Sigma.IDENTITY:
        return torch.ones(count)
    values = singular_values(layer, count, draw)
    return values if sigma is Sigma.PAPER else values / values[0]


def singular_values(layer: Layer, count: int, draw: torch.Generator) -> Tensor:
    """The largest singular values of the frozen weight by a randomized SVD (Halko et al. 2011).

    torch draws its test matrix from the global generator, which is put back as it was.
    """
    if layer.weight is None:
        raise ValueError(f"{layer.name} has no weight to take singular values from: use identity.")
    weight = layer.weight()
    # Twice the count, since random weights have a flat spectrum, the hardest case.
    rank = min(2 * count + OVERSAMPLING, *weight.shape)
    seed = int(torch.randint(2**62, (), generator=draw))
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        return torch.svd_lowrank(weight, q=rank, niter=POWER_ITERATIONS)[1][:count].clone()


@dataclass(frozen=True, kw_only=True, slots=True)
class TriLoraConfig:
    """Settings of TriLoRA on the attention layers."""

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
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}: use at least 1.")
        if self.rank_out < 0:
            raise ValueError(f"rank_out is {self.rank_out}: use 0 (the same as rank) or more.")
        if self.alpha < 0:
            raise ValueError(f"alpha is {self.alpha}: use 0 (the rank) or more.")
        if self.orthogonality < 0:
            raise ValueError(f"orthogonality is {self.orthogonality}: use 0 (off) or more.")

    @property
    def outer_rank(self) -> int:
        """r2."""
        return self.rank_out or self.rank

    @property
    def scale(self) -> float:
        """s of eq. 5."""
        smaller = min(self.rank, self.outer_rank)
        return (self.alpha or smaller) / smaller

    def matches(self, layer: Layer) -> bool:
        """Whether the layer is a projection of an attention block."""
        return is_attention(layer)

    def build(self, layer: Layer, draw: torch.Generator) -> TriLora:
        """A TriLoRA for the layer; ValueError when a rank does not fit it."""
        check_rank(layer, max(self.rank, self.outer_rank))
        return TriLora(layer, self, draw)

    def export(self, adapter: Adapter) -> Mapping[str, Tensor]:
        """An ordinary LoRA of rank min(r1, r2): C is folded into the smaller side, exactly."""
        assert isinstance(adapter, TriLora)
        a, b, c = adapter.a.detach(), adapter.b.detach(), adapter.core().detach()
        up, down = (b @ c, a) if self.rank <= self.outer_rank else (b, c @ a)
        alpha = torch.tensor(self.scale * len(down))
        return {"lora_up.weight": up, "lora_down.weight": down, "alpha": alpha}
