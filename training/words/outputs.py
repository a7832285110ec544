"""Output embeddings: trained rows that replace what a text encoder returns for a concept.

As OneTrainer trains them: the encoder reads zeros in the concept's place, and its result there
is replaced. They act behind the encoder, so no other word of the caption changes with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..ports import TextEncoder
from ..randomness import generator
from ..trained import Learned, Places, on_cpu
from .concepts import Concept
from .vectors import NamedRows, Rows, noise_rows, row_norms, spread_rows

OUTPUT_RATE = 1e-1
"""Rows behind an encoder are some fifty times as long as a table's, so they need longer steps.

Chosen by benchmarks/results/learning.md: a tenth of it learns nothing, three times it as much.
"""


class Outputs(NamedRows):
    """The rows that stand for concepts in what the text encoders return."""

    kind, optimizer_name, rate = "outputs", "outputs", OUTPUT_RATE

    def __init__(self, rows: Rows):
        super().__init__(rows)
        # Measured before a checkpoint is read, so that a run that resumes has the same.
        self._norms = {
            name: {key: row_norms(one.detach()).mean().item() for key, one in of_concept.items()}
            for name, of_concept in rows.items()
        }

    def norms(self, concept: str) -> Mapping[str, float]:
        """The mean norm that the concept's own rows started with."""
        return self._norms[concept]

    def places(self) -> Places:
        return Places(outputs=self.rows)

    def learned(self) -> Learned:
        return Learned(outputs=on_cpu(self.rows))


def initial_outputs(concepts: Sequence[Concept], text: TextEncoder, seed: int) -> Rows:
    """Rows that concepts start from, on the CPU: what the encoders return for the initial words.

    Without initial words, noise of the norm that the placeholder's own rows have.
    """
    return {concept.final_name: _start(concept, text, seed) for concept in concepts}


@torch.no_grad()
def _start(concept: Concept, text: TextEncoder, seed: int) -> dict[str, nn.Parameter]:
    rows_of = text.output_rows(concept.initial or concept.placeholder)
    started: dict[str, nn.Parameter] = {}
    for key, rows in rows_of.items():
        if concept.initial:
            start = spread_rows(rows, concept.vectors)
        else:
            rng = generator(seed, "outputs", concept.final_name, key)
            norm = row_norms(rows).median().item()
            start = noise_rows(concept.vectors, rows.shape[-1], norm, rng)
        started[key] = nn.Parameter(start)
    return started
