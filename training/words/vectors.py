"""Trainable token vectors: a Parameter of the new rows alone, never the encoder's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..ports import TextEncoder
from ..randomness import generator
from .concepts import Concept

Vectors = dict[str, dict[str, nn.Parameter]]
"""concept name -> encoder key -> (vectors, width) in fp32"""


def initial_vectors(concepts: Sequence[Concept], text: TextEncoder, seed: int) -> Vectors:
    """The vectors every concept starts from, on the CPU."""
    return {concept.final_name: _start(concept, text, seed) for concept in concepts}


def _start(concept: Concept, text: TextEncoder, seed: int) -> dict[str, nn.Parameter]:
    source = text.rows(concept.initial or concept.placeholder)
    norms = text.norms()
    if concept.initial and not all(len(rows) for rows in source.values()):
        raise ValueError(f'The initial phrase "{concept.initial}" has no token: write a word.')
    started: dict[str, nn.Parameter] = {}
    for key, rows in source.items():
        if concept.initial:
            start = spread_rows(rows.float(), concept.vectors)
        else:
            draw = generator(seed, "vectors", concept.final_name, key)
            start = noise_rows(concept.vectors, rows.shape[-1], norms[key], draw)
        started[key] = nn.Parameter(start)
    return started


def spread_rows(rows: Tensor, count: int) -> Tensor:
    """Exactly `count` rows: repeated in turn when there are too few, the last ones when too many.

    The last tokens of an English phrase carry its noun, so "small red cat" with one vector is
    cat.
    """
    rows = rows[-count:]
    return rows[torch.arange(count) % len(rows)].clone()


def noise_rows(count: int, width: int, norm: float, draw: torch.Generator) -> Tensor:
    """Gaussian directions of the table's own norm, (count, width)."""
    rows = torch.randn(count, width, generator=draw)
    return rows * (norm / row_norms(rows))


def row_norms(rows: Tensor) -> Tensor:
    """Euclidean norm of each row, (rows, 1)."""
    return rows.square().sum(dim=-1, keepdim=True).sqrt()


@torch.no_grad()
def pull_norms(
    vectors: Mapping[str, nn.Parameter], norms: Mapping[str, float], k: float
) -> dict[nn.Parameter, Tensor]:
    """Move each row's norm a share `k` of the way to its encoder's median: |v| <- |v| + k(m - |v|).

    Per row and towards a measured norm, where the usual scripts rescale all new rows jointly
    or towards a constant that fits one encoder only. Returns what was added to each Parameter.
    """
    shifts: dict[nn.Parameter, Tensor] = {}
    for key, rows in vectors.items():
        length = row_norms(rows).clamp_min(1e-12)
        shifts[rows] = rows * (k * (norms[key] - length) / length)
        rows.add_(shifts[rows])
    return shifts
