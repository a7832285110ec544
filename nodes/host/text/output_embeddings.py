"""OneTrainer's output embeddings: rows of the text encoder's result replaced by trained ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.sd import CLIP
from torch import Tensor

from .tokenizer import NamedVectors, leaves, overlaid_names, with_only

# Columns of the conditioning that each encoder fills, where rows are those of the tokens.
_LAYOUTS = {
    ("l",): {"l": (0, 768)},
    ("h",): {"h": (0, 1024)},
    ("g", "l"): {"l": (0, 768), "g": (768, 2048)},
    ("g", "l", "t5xxl"): {"l": (0, 768), "g": (768, 2048), "t5xxl": (0, 4096)},
    ("t5xxl",): {"t5xxl": (0, 4096)},
    ("l", "t5xxl"): {"t5xxl": (0, 4096)},
}
# SD3 puts T5's rows behind those of its CLIPs, and any of the three may be absent.
_STACKED = ("g", "l", "t5xxl")
_PARTS = {"l": "clip_l", "g": "clip_g", "t5xxl": "t5xxl"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Area:
    """Where an encoder's output lies in the conditioning."""

    first: int
    rows: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """A row of the conditioning that is to be replaced."""

    part: str
    row: int
    weight: float
    vector: Tensor


TrainedRows = Mapping[int, tuple[Tensor, int]]
"""Address of a zero row that an encoder reads -> the rows of its name, and the place among them"""


def encode_with_outputs(clip: CLIP, text: str) -> tuple[list[Any], int]:
    """Conditioning as CLIP Text Encode makes it, with output embeddings in place; their number.

    While a name is read its encoder sees zeros there, as it did in training. ValueError for a text
    encoder whose conditioning's rows are not known.
    """
    names, trained = readable(overlaid_names(clip))
    reader = with_only(clip, names) if names else clip
    tokens = reader.tokenize(text)
    places = list(_places(tokens, trained))
    conditioning = reader.encode_from_tokens_scheduled(tokens)
    if not places:
        return conditioning, 0
    put = _writer(reader, tokens, places)
    return [[put(cond), more] for cond, more in conditioning], len(places)


def put_outputs(
    clip: CLIP, tokens: Mapping[str, Any], cond: Tensor, trained: TrainedRows
) -> Tensor:
    """A conditioning of these tokens with output embeddings in place, under autograd."""
    places = list(_places(tokens, trained))
    return _writer(clip, tokens, places)(cond) if places else cond


def output_rows(clip: CLIP, phrase: str) -> dict[str, Tensor]:
    """What the encoders return for the words of a phrase, (tokens, width) by encoder key.

    ValueError for a text encoder of which not all rows of the result are known.
    """
    tokens = clip.tokenize(phrase, disable_weights=True)
    areas, readers = _areas(clip, tokens), leaves(clip)
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
            raise ValueError(f'The initial phrase "{phrase}" has no token: write a word.')
        rows[key] = cond[0, places, area.start : area.end].float().cpu()
    return rows


def readable(known: Mapping[str, NamedVectors]) -> tuple[dict[str, NamedVectors], TrainedRows]:
    """The names with zeros as vectors where they have outputs, and the outputs of each zero row."""
    names: dict[str, NamedVectors] = {}
    trained: dict[int, tuple[Tensor, int]] = {}
    for name, entry in known.items():
        zeros = {key: torch.zeros_like(rows) for key, rows in entry.outputs.items()}
        for key, rows in entry.outputs.items():
            # The host hands out a view of each row, which is known by where it lies.
            trained |= {zero.data_ptr(): (rows, place) for place, zero in enumerate(zeros[key])}
        names[name] = replace(entry, vectors={**entry.vectors, **zeros}, outputs={})
    return names, trained


def _writer(
    clip: CLIP, tokens: Mapping[str, Any], places: list[_Place]
) -> Callable[[Tensor], Tensor]:
    """Puts output embeddings into conditionings of these tokens."""
    areas = _areas(clip, tokens)
    lost = [place.part for place in places if place.part not in areas]
    if lost:
        raise _unknown_rows(clip, f"for {lost[0]} cannot be placed")
    empty = _empty_rows(clip, tokens, places)
    return lambda cond: _replaced(cond, places, areas, empty)


def _unknown_rows(clip: CLIP, trouble: str) -> ValueError:
    return ValueError(
        f"Output embeddings {trouble}: where the rows of its tokens are "
        f"in the conditioning of this text encoder ({', '.join(leaves(clip))}) is not known. "
        "They are known for SD1.x, SD2, SDXL, SD3, Flux (T5) and encoders of T5 alone."
    )


def _places(tokens: Mapping[str, Any], trained: TrainedRows) -> Iterator[_Place]:
    for part, chunks in tokens.items():
        row = 0
        for chunk in chunks:
            for token, weight, *_ in chunk:
                vector = token.get("data") if isinstance(token, dict) else token
                if torch.is_tensor(vector) and vector.data_ptr() in trained:
                    rows, place = trained[vector.data_ptr()]
                    yield _Place(part=part, row=row, weight=weight, vector=rows[place])
                row += 1


def _areas(clip: CLIP, tokens: Mapping[str, Any]) -> dict[str, _Area]:
    """The area of each encoder whose conditioning has a row for each of its tokens."""
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


def _empty_rows(clip: CLIP, tokens: Mapping[str, Any], places: list[_Place]) -> Tensor | None:
    """What the host weighs against, if any place has a weight: a weight of 0 leaves just that."""
    if all(place.weight == 1 for place in places):
        return None
    unsaid = {
        part: [[(token, 0.0, *rest) for token, _, *rest in chunk] for chunk in chunks]
        for part, chunks in tokens.items()
    }
    empty: Any = clip.encode_from_tokens(unsaid)
    return empty


def _replaced(
    cond: Tensor, places: list[_Place], areas: Mapping[str, _Area], empty: Tensor | None
) -> Tensor:
    made = cond.clone()
    for place in places:
        area = areas[place.part]
        if place.row >= min(area.rows, made.shape[1] - area.first):
            continue
        at = (slice(None), area.first + place.row, slice(area.start, area.end))
        row = place.vector.to(made)
        if empty is not None:
            base = empty[at].to(made)
            row = base + place.weight * (row - base)
        made[at] = row
    return made
