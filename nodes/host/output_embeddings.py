"""OneTrainer's output embeddings: rows of the text encoder's result replaced by trained ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.sd import CLIP
from torch import Tensor

from .overlay import NamedVectors, leaves, overlaid_names, with_only

# Columns of the conditioning that each encoder fills, where rows are those of the tokens.
_LAYOUTS = {
    ("l",): {"l": (0, 768)},
    ("h",): {"h": (0, 1024)},
    ("g", "l"): {"l": (0, 768), "g": (768, 2048)},
    ("t5xxl",): {"t5xxl": (0, 4096)},
    ("l", "t5xxl"): {"t5xxl": (0, 4096)},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """A row of the conditioning that is to be replaced."""

    part: str
    row: int
    weight: float
    vector: Tensor


def encode_with_outputs(clip: CLIP, text: str) -> tuple[list[Any], int]:
    """Conditioning as CLIP Text Encode makes it, with output embeddings in place; their number.

    While a name is read its encoder sees zeros there, as it did in training. ValueError for a text
    encoder whose conditioning has no row for each token.
    """
    names, trained = _readable(overlaid_names(clip))
    reader = with_only(clip, names) if names else clip
    tokens = reader.tokenize(text)
    places = list(_places(tokens, trained)) if trained else []
    conditioning = reader.encode_from_tokens_scheduled(tokens)
    if not places:
        return conditioning, 0
    layout = _layout(clip, tokens, places)
    empty = _empty_rows(clip, places)
    return [[_replaced(c, places, layout, empty), more] for c, more in conditioning], len(places)


def _readable(
    known: Mapping[str, NamedVectors],
) -> tuple[dict[str, NamedVectors], dict[int, Tensor]]:
    """The names with zeros as vectors where they have outputs, and the output of each zero row."""
    names: dict[str, NamedVectors] = {}
    trained: dict[int, Tensor] = {}
    for name, entry in known.items():
        zeros = {key: torch.zeros_like(rows) for key, rows in entry.outputs.items()}
        for key, rows in entry.outputs.items():
            # The host hands out a view of each row, which is known by where it lies.
            trained |= {zero.data_ptr(): row for zero, row in zip(zeros[key], rows, strict=True)}
        names[name] = replace(entry, vectors={**entry.vectors, **zeros}, outputs={})
    return names, trained


def _places(tokens: Mapping[str, Any], trained: Mapping[int, Tensor]) -> Iterator[_Place]:
    for part, chunks in tokens.items():
        row = 0
        for chunk in chunks:
            for token, weight, *_ in chunk:
                vector = token.get("data") if isinstance(token, dict) else token
                if torch.is_tensor(vector) and vector.data_ptr() in trained:
                    found = trained[vector.data_ptr()]
                    yield _Place(part=part, row=row, weight=weight, vector=found)
                row += 1


def _layout(
    clip: CLIP, tokens: Mapping[str, Any], places: list[_Place]
) -> dict[str, tuple[int, int]]:
    layout = _LAYOUTS.get(tuple(sorted(tokens)), {})
    lost = [place.part for place in places if place.part not in layout]
    if lost:
        raise ValueError(
            f"Output embeddings for {lost[0]} cannot be placed: the conditioning of this text "
            f"encoder ({', '.join(leaves(clip))}) has no row of its own for each token."
        )
    return layout


def _empty_rows(clip: CLIP, places: list[_Place]) -> Tensor | None:
    """What the host weighs against: the conditioning of no text, if any place has a weight."""
    if all(place.weight == 1 for place in places):
        return None
    return clip.encode_from_tokens(clip.tokenize(""))


def _replaced(
    cond: Tensor,
    places: list[_Place],
    layout: Mapping[str, tuple[int, int]],
    empty: Tensor | None,
) -> Tensor:
    made = cond.clone()
    for place in places:
        start, end = layout[place.part]
        row = place.vector.to(made)
        if empty is not None:
            base = empty[0, place.row % empty.shape[1], start:end].to(made)
            row = base + place.weight * (row - base)
        if place.row < made.shape[1]:
            made[:, place.row, start:end] = row
    return made
