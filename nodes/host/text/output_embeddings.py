"""OneTrainer's output embeddings: trained rows that replace rows of the text encoder's result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.sd import CLIP
from torch import Tensor

from .tokenizer import NamedVectors, encoder_tokenizers, overlaid_names, with_exactly

# Columns of the conditioning that each encoder fills, if it has one row for each token.
_LAYOUTS = {
    ("l",): {"l": (0, 768)},
    ("h",): {"h": (0, 1024)},
    ("g", "l"): {"l": (0, 768), "g": (768, 2048)},
    ("g", "l", "t5xxl"): {"l": (0, 768), "g": (768, 2048), "t5xxl": (0, 4096)},
    ("t5xxl",): {"t5xxl": (0, 4096)},
    ("l", "t5xxl"): {"t5xxl": (0, 4096)},
}
# SD3 puts T5's rows after those of its CLIPs, and any of the three may be missing.
_STACKED = ("g", "l", "t5xxl")
_PARTS = {"l": "clip_l", "g": "clip_g", "t5xxl": "t5xxl"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Area:
    """The part of the conditioning that an encoder fills: rows from `first`, columns to `end`."""

    first: int
    rows: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _TrainedRow:
    """A row of an encoder's output that a trained vector replaces."""

    part: str
    row: int
    weight: float
    vector: Tensor


TrainedRows = Mapping[int, tuple[Tensor, int]]
"""Address of a zero row that an encoder reads, to the rows of its name and its index there."""


def encode_with_outputs(clip: CLIP, text: str) -> tuple[list[Any], int]:
    """The conditioning of CLIP Text Encode with output embeddings put in, and their number.

    The encoder reads zeros in place of a name, as in training. Raises ValueError for a text encoder
    whose rows in the conditioning are not known.
    """
    names, trained = as_zero_rows(overlaid_names(clip))
    return encode_zero_rows(with_exactly(clip, names) if names else clip, trained, text)


def encode_zero_rows(reader: CLIP, trained: TrainedRows, text: str) -> tuple[list[Any], int]:
    """The same for a CLIP that knows output embeddings as zeros, and the rows that replace them."""
    tokens = reader.tokenize(text)
    places = list(_trained_rows(tokens, trained))
    conditioning = reader.encode_from_tokens_scheduled(tokens)
    if not places:
        return conditioning, 0
    put = _writer(reader, tokens, places)
    return [[put(cond), more] for cond, more in conditioning], len(places)


def put_outputs(
    clip: CLIP, tokens: Mapping[str, Any], cond: Tensor, trained: TrainedRows
) -> Tensor:
    """The conditioning of these tokens with output embeddings put in, under autograd."""
    places = list(_trained_rows(tokens, trained))
    return _writer(clip, tokens, places)(cond) if places else cond


def output_rows(clip: CLIP, phrase: str) -> dict[str, Tensor]:
    """The encoders' output for the words of a phrase, (tokens, width) by encoder key.

    Raises ValueError for a text encoder whose rows in the conditioning are not all known.
    """
    tokens = clip.tokenize(phrase, disable_weights=True)
    areas, readers = _areas(clip, tokens), encoder_tokenizers(clip)
    if tokens.keys() - areas.keys():
        raise _unknown_rows(clip, "cannot be trained with this text encoder")
    cond: Any = clip.encode_from_tokens(tokens)
    if isinstance(cond, tuple):
        cond = cond[0]
    rows: dict[str, Tensor] = {}
    for part, area in areas.items():
        key = next(key for key in readers if key in (part, _PARTS.get(part)))
        chunks: Any = readers[key].tokenize_with_weights(phrase, return_word_ids=True)
        words = [word for chunk in chunks for _, _, word in chunk]
        places = [area.first + row for row, word in enumerate(words) if word and row < area.rows]
        if not places:
            raise ValueError(f'The initial phrase "{phrase}" has no tokens: write a word.')
        rows[key] = cond[0, places, area.start : area.end].float().cpu()
    return rows


def as_zero_rows(known: Mapping[str, NamedVectors]) -> tuple[dict[str, NamedVectors], TrainedRows]:
    """The names with zeros as vectors for their outputs, and the output of each zero row."""
    names: dict[str, NamedVectors] = {}
    trained: dict[int, tuple[Tensor, int]] = {}
    for name, entry in known.items():
        zeros = {key: torch.zeros_like(rows) for key, rows in entry.outputs.items()}
        for key, rows in entry.outputs.items():
            # The host passes on a view of each row, which its address identifies.
            trained |= {zero.data_ptr(): (rows, index) for index, zero in enumerate(zeros[key])}
        names[name] = replace(entry, vectors={**entry.vectors, **zeros}, outputs={})
    return names, trained


def _writer(
    clip: CLIP, tokens: Mapping[str, Any], places: list[_TrainedRow]
) -> Callable[[Tensor], Tensor]:
    """A function that puts output embeddings into conditionings of these tokens."""
    areas = _areas(clip, tokens)
    lost = [place.part for place in places if place.part not in areas]
    if lost:
        raise _unknown_rows(clip, f"for {lost[0]} cannot be placed")
    empty = _empty_rows(clip, tokens, places)
    return lambda cond: _replaced(cond, places, areas, empty)


def _unknown_rows(clip: CLIP, trouble: str) -> ValueError:
    return ValueError(
        f"Output embeddings {trouble}: where its rows are in the conditioning of this "
        f"text encoder ({', '.join(encoder_tokenizers(clip))}) is not known. They are known for "
        "SD1.x, SD2, SDXL, SD3, Flux (T5) and encoders of T5 alone."
    )


def _trained_rows(tokens: Mapping[str, Any], trained: TrainedRows) -> Iterator[_TrainedRow]:
    for part, chunks in tokens.items():
        row = 0
        for chunk in chunks:
            for token, weight, *_ in chunk:
                vector = token.get("data") if isinstance(token, dict) else token
                if torch.is_tensor(vector) and vector.data_ptr() in trained:
                    rows, index = trained[vector.data_ptr()]
                    yield _TrainedRow(part=part, row=row, weight=weight, vector=rows[index])
                row += 1


def _areas(clip: CLIP, tokens: Mapping[str, Any]) -> dict[str, _Area]:
    """The area of each encoder that has one row in the conditioning for each of its tokens."""
    kind = tuple(sorted(tokens))
    rows = {part: sum(map(len, chunks)) for part, chunks in tokens.items()}
    columns = _LAYOUTS.get(kind, {})
    before, stacked = 0, kind == _STACKED
    if stacked:
        stage = clip.cond_stage_model
        columns = {k: v for k, v in columns.items() if getattr(stage, _PARTS[k], None) is not None}
        before = min((rows[part] for part in columns if part != "t5xxl"), default=0)
    return {
        part: _Area(first=before, rows=rows[part], start=start, end=end)
        if part == "t5xxl"
        else _Area(first=0, rows=before if stacked else rows[part], start=start, end=end)
        for part, (start, end) in columns.items()
    }


def _empty_rows(clip: CLIP, tokens: Mapping[str, Any], places: list[_TrainedRow]) -> Tensor | None:
    """The conditioning at a weight of 0, from which the host weighs; None if no row is weighted."""
    if all(place.weight == 1 for place in places):
        return None
    unweighted = {
        part: [[(token, 0.0, *rest) for token, _, *rest in chunk] for chunk in chunks]
        for part, chunks in tokens.items()
    }
    empty: Any = clip.encode_from_tokens(unweighted)
    return empty


def _replaced(
    cond: Tensor, places: list[_TrainedRow], areas: Mapping[str, _Area], empty: Tensor | None
) -> Tensor:
    result = cond.clone()
    for place in places:
        area = areas[place.part]
        if place.row >= min(area.rows, result.shape[1] - area.first):
            continue
        at = (slice(None), area.first + place.row, slice(area.start, area.end))
        row = place.vector.to(result)
        if empty is not None:
            base = empty[at].to(result)
            row = base + place.weight * (row - base)
        result[at] = row
    return result
