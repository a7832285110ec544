"""Trainable token vectors: a Parameter of the new rows alone, never the encoder's table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from ..config import TrainConfig
from ..optimizers.choices import make_optimizer, shift_origin
from ..ports import TextEncoder
from ..randomness import generator
from ..trained import Learned, Places, Trained, on_cpu
from .concepts import Concept

EMBEDDING_RATE = 1e-3
Rows = Mapping[str, Mapping[str, nn.Parameter]]
"""concept name -> encoder key -> (vectors, width) in fp32"""


class NamedRows(Trained):
    """Rows of concepts: each concept is an optimizer group, which its pivot ends."""

    kind = ""
    """First word of the names in a checkpoint."""
    optimizer_name = ""
    rate = 0.0
    """Learning rate where none is set."""

    def __init__(self, rows: Rows):
        self.rows = rows
        self.optimizer_names = (self.optimizer_name,)

    def norms(self, concept: str) -> Mapping[str, float]:
        """The norm that a concept's rows are pulled to, by encoder key."""
        raise NotImplementedError

    def parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{self.kind}.{name}.{key}": rows
            for name, of_concept in self.rows.items()
            for key, rows in of_concept.items()
        }

    def freezable(self) -> dict[str, list[nn.Parameter]]:
        return {name: list(of_concept.values()) for name, of_concept in self.rows.items()}

    def optimizers(self, config: TrainConfig, live: Collection[str]) -> dict[str, Optimizer]:
        groups = {name: rows for name, rows in self.freezable().items() if name in live}
        if not groups:
            return {}
        return {self.optimizer_name: make_optimizer(config.embedding_optimizer, groups, self.rate)}

    def updated(self, optimizer: Optimizer, moved: Collection[str], config: TrainConfig) -> None:
        """Pull the norms of the rows that the step has moved, and only those."""
        for name in moved:
            pulled = pull_norms(self.rows[name], self.norms(name), config.norm_pull)
            shift_origin(optimizer, pulled)


class Vectors(NamedRows):
    """The vectors that the text encoders read where a caption mentions a concept.

    They take the placeholder's place before the encoder, so that the table, and with it every
    other word, stays as it is.
    """

    kind, optimizer_name, rate = "vectors", "embeddings", EMBEDDING_RATE

    def __init__(self, rows: Rows, text: TextEncoder):
        super().__init__(rows)
        self._text = text
        self._norms: Mapping[str, float] = {}

    def optimizers(self, config: TrainConfig, live: Collection[str]) -> dict[str, Optimizer]:
        # Measured here, where the encoders are borrowed: on another device the last bits differ.
        self._norms = self._text.norms() if self.rows else {}
        return super().optimizers(config, live)

    def norms(self, concept: str) -> Mapping[str, float]:
        """The median norm of each encoder's token table, whatever the concept."""
        return self._norms

    def places(self) -> Places:
        return Places(vectors=self.rows)

    def learned(self) -> Learned:
        return Learned(embeddings=on_cpu(self.rows))


def initial_vectors(concepts: Sequence[Concept], text: TextEncoder, seed: int) -> Rows:
    """The rows that concepts start from, on the CPU."""
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
            rng = generator(seed, "vectors", concept.final_name, key)
            start = noise_rows(concept.vectors, rows.shape[-1], norms[key], rng)
        started[key] = nn.Parameter(start)
    return started


def spread_rows(rows: Tensor, count: int) -> Tensor:
    """Exactly `count` rows: repeated in turn if there are too few, the last ones if too many.

    The last tokens of an English phrase carry its noun, so "small red cat" with one vector is
    cat.
    """
    rows = rows[-count:]
    return rows[torch.arange(count) % len(rows)].clone()


def noise_rows(count: int, width: int, norm: float, rng: torch.Generator) -> Tensor:
    """Gaussian directions with the given norm, (count, width)."""
    rows = torch.randn(count, width, generator=rng)
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
