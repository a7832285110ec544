"""A bundle described: its LoRA, its names, and which words their vectors are close to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from .bundle import Bundle, as_notes, few, short
from .layers.aliases import is_text_layer
from .lowrank import PAIRS, UNDERSCORED, not_finite

# No word of a vocabulary is this short; output embeddings come with rows of zeros.
_NEAR_ZERO = 1e-3
_NEAREST = 3
_ROWS_SHOWN = 8
_NAMES_SHOWN = 200
_SLICE = 8192
"""Rows of a vocabulary that are converted to fp32 at a time"""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Vocabulary:
    """The words of a text encoder, for vectors to be compared with."""

    table: Tensor
    """(words, width)"""
    word: Callable[[int], str]

    def norms(self) -> Tensor:
        """Euclidean norm of every word in fp32, (words,)."""
        return torch.cat([_lengths(part) for part in _slices(self.table)])

    def nearest(self, row: Tensor) -> list[tuple[str, float]]:
        """The words with the largest cosine to a vector (width,), and the cosines."""
        unit = (row.float() / _lengths(row).clamp_min(1e-12)).to(self.table.device)
        scores = [
            part.float() @ unit / _lengths(part).clamp_min(1e-12) for part in _slices(self.table)
        ]
        best = torch.cat(scores).nan_to_num(-1.0).topk(_NEAREST)
        pairs = zip(best.indices, best.values, strict=True)
        return [(self.word(int(index.item())), score.item()) for index, score in pairs]


def _slices(table: Tensor) -> list[Tensor]:
    """Parts of a table, so that a large one is never copied to fp32 as a whole."""
    return [table[start : start + _SLICE] for start in range(0, len(table), _SLICE)]


def _lengths(rows: Tensor) -> Tensor:
    """Euclidean norm along the last axis, in fp32."""
    return rows.float().square().sum(dim=-1).sqrt()


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorsRow:
    """A row of the table: one name's vectors for one encoder."""

    name: str
    encoder: str
    kind: str
    vectors: int
    width: int
    norms: tuple[float, float, float]
    """Smallest, mean and largest"""
    relative: float | None
    """The mean as a multiple of the vocabulary's median"""
    nearest: str
    remarks: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """Pairs of label and text, a row for each tensor of vectors, and sentences."""

    facts: Sequence[tuple[str, str]]
    rows: Sequence[VectorsRow]
    notes: Sequence[str]


HEAD = ("name", "encoder", "kind", "vectors", "width", "norm", "of words", "nearest", "remarks")


def inspect_bundle(
    bundle: Bundle, vocabularies: Mapping[str, Vocabulary] | None = None
) -> Inspection:
    """Describe a bundle and, given vocabularies, which words its vectors are close to."""
    rows = list(_rows(bundle, vocabularies or {}))
    return Inspection(facts=list(_facts(bundle)), rows=rows, notes=as_notes(bundle.notes))


def cells(row: VectorsRow) -> tuple[str, ...]:
    """A row as the texts under HEAD."""
    norm = " / ".join(f"{value:.3g}" for value in dict.fromkeys(row.norms))
    relative = "" if row.relative is None else f"{row.relative:.2f} x"
    counts = (str(row.vectors), str(row.width))
    return (row.name, row.encoder, row.kind, *counts, norm, relative, row.nearest, row.remarks)


def as_text(inspection: Inspection) -> str:
    """Facts, the table with aligned columns, and the sentences."""
    lines = [f"{label}: {value}" for label, value in inspection.facts]
    if inspection.rows:
        lines += ["", *_aligned(with_head(list(map(cells, inspection.rows))))]
    return "\n".join([*lines, *([""] if inspection.notes else []), *inspection.notes])


def with_head(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rows of cells under HEAD, without columns that are empty in all of them."""
    used = [column for column in range(len(HEAD)) if any(row[column] for row in rows)]
    return [[row[column] for column in used] for row in (HEAD, *rows)]


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]


def file_hash(path: Path) -> str:
    """SHA-256 of a whole file; CivitAI's AutoV2 is its first ten digits."""
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1024**2):
            whole.update(block)
    return whole.hexdigest()


def _facts(bundle: Bundle) -> Iterator[tuple[str, str]]:
    yield "family", bundle.family or "not stated in the file"
    yield "LoRA", _lora_text(bundle.lora)
    names = [*map(short, bundle.names)]
    shown, more = names[:_NAMES_SHOWN], len(names) - _NAMES_SHOWN
    rest = f" and {more} more" if more > 0 else ""
    yield "names", (", ".join(shown) or "none") + rest
    yield "triggers", (", ".join(f"embedding:{name}" for name in shown) or "none") + rest
    for entry in list(bundle.entry_of.values())[:_NAMES_SHOWN]:
        parts = [f"from {short(entry.initial)!r}" if entry.initial else ""]
        parts += [f"captions said {short(entry.placeholder)!r}" if entry.placeholder else ""]
        if any(parts):
            yield short(entry.name), ", ".join(filter(None, parts))
    if bundle.source:
        yield "file", bundle.source
    yield from _recipe(bundle.recipe)
    yield "graph", "in the file" if bundle.workflow else "none"
    thumbnails = sum(bool(entry.thumbnail) for entry in bundle.entry_of.values())
    yield "thumbnails", str(thumbnails + bool(bundle.thumbnail))


def _recipe(recipe: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The values of a recipe, which may be anyone's; lists are left out."""
    for key, value in list(recipe.items())[:60]:
        if isinstance(value, Mapping) and "." not in prefix:
            yield from _recipe(cast("Mapping[str, object]", value), f"{prefix}{key}.")
        elif isinstance(value, str | int | float) and value != "":
            yield f"{prefix}{key}", str(value)[:200]


def _lora_text(lora: Mapping[str, Tensor]) -> str:
    downs = [key for key in lora if key.endswith(_DOWNS)]
    if not lora:
        return "none"
    ranks = sorted({lora[key].shape[0] for key in downs if lora[key].ndim})
    alphas = sorted(
        {float(t) for key, t in lora.items() if key.endswith(".alpha") and t.numel() == 1}
    )
    text = sum(map(is_text_layer, downs))
    others = sum(not key.endswith(_FACTORS) for key in lora)
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in lora.values()})
    parts = [f"{len(downs)} layers in two factors" if downs else f"{len(lora)} tensors"]
    parts += [f"{text} of them in the text encoders"] if text else []
    parts += [f"{others} other tensors"] if downs and others else []
    parts += [f"rank {_few(ranks)}"] if ranks else []
    parts += [f"alpha {_few(alphas)}"] if alphas else []
    bad = [key for key, tensor in lora.items() if not_finite(tensor)]
    damage = [f"NaN or infinite values in {few(bad)}"] if bad else []
    return ", ".join([*parts, "/".join(types), *damage])


_DOWNS = (*(f".{down}" for _, down in PAIRS), UNDERSCORED[1])
_UPS = (*(f".{up}" for up, _ in PAIRS), UNDERSCORED[0])
_FACTORS = (*_UPS, *_DOWNS, ".lora_mid.weight", ".alpha")


def _few(numbers: Sequence[float]) -> str:
    shown = [f"{number:g}" for number in numbers]
    return ", ".join(shown) if len(shown) < 4 else f"{shown[0]} to {shown[-1]}"


def _rows(bundle: Bundle, vocabularies: Mapping[str, Vocabulary]) -> Iterator[VectorsRow]:
    seen: dict[bytes, str] = {}
    medians = {key: vocabulary.norms().median().item() for key, vocabulary in vocabularies.items()}
    for kind, embeddings in (("input", bundle.embeddings), ("output", bundle.outputs)):
        for name, vectors in embeddings.items():
            for encoder, rows in vectors.items():
                vocabulary = vocabularies.get(encoder) if kind == "input" else None
                norms = _spread(rows)
                yield VectorsRow(
                    name=short(name),
                    encoder=encoder,
                    kind=kind,
                    vectors=rows.shape[0],
                    width=rows.shape[1],
                    norms=norms,
                    relative=norms[1] / medians[encoder] if vocabulary else None,
                    nearest=_nearest(rows, vocabulary),
                    remarks=", ".join(_remarks(rows, f"{short(name)}.{encoder}", seen)),
                )


def _spread(rows: Tensor) -> tuple[float, float, float]:
    norms = _lengths(rows)
    return norms.amin().item(), norms.mean().item(), norms.amax().item()


def _nearest(rows: Tensor, vocabulary: Vocabulary | None) -> str:
    """The word closest to each of the first vectors, with its cosine."""
    if vocabulary is None or rows.shape[1] != vocabulary.table.shape[1]:
        return ""
    if not rows.isfinite().all():
        return ""
    closest = [vocabulary.nearest(row)[0] for row in rows[:_ROWS_SHOWN]]
    words = " ".join(f"{word} {cosine:.2f}" for word, cosine in closest)
    return words + (" ..." if len(rows) > len(closest) else "")


def _remarks(rows: Tensor, label: str, seen: dict[bytes, str]) -> Iterator[str]:
    bad = int((~rows.isfinite()).sum())
    if bad:
        yield f"{bad} values are NaN or infinite"
    elif rows.abs().amax().item() < _NEAR_ZERO:
        yield "near zero"
    digest = hashlib.sha256(rows.float().contiguous().numpy().tobytes()).digest()
    first = seen.setdefault(digest, label)
    if first != label:
        yield f"the same as {first}"
