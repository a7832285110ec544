"""What a bundle holds: its LoRA, its names, and how their vectors lie among the words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from .bundle import Bundle
from .lowrank import PAIRS, UNDERSCORED

# No word of a vocabulary is as short; zeros are what output embeddings leave behind.
_NEAR_ZERO = 1e-3
_NEAREST = 3
_SLICE = 8192


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Vocabulary:
    """The words of a text encoder, to measure vectors against."""

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
    """So that a large table is never copied whole to fp32."""
    return [table[start : start + _SLICE] for start in range(0, len(table), _SLICE)]


def _lengths(rows: Tensor) -> Tensor:
    """Euclidean norm along the last axis, in fp32."""
    return rows.float().square().sum(dim=-1).sqrt()


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One name's vectors for one encoder."""

    name: str
    encoder: str
    kind: str
    vectors: int
    width: int
    norms: tuple[float, float, float]
    """Smallest, mean and largest."""
    relative: float | None
    """The mean over the median of the vocabulary."""
    nearest: str
    remarks: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """A bundle described: pairs of label and text, a row for each tensor, and sentences."""

    facts: Sequence[tuple[str, str]]
    rows: Sequence[Row]
    notes: Sequence[str]


HEAD = ("name", "encoder", "kind", "vectors", "width", "norm", "of words", "nearest", "remarks")


def inspect_bundle(
    bundle: Bundle, vocabularies: Mapping[str, Vocabulary] | None = None
) -> Inspection:
    """Facts about a bundle; with the encoders' vocabularies also what its vectors are close to."""
    rows = list(_rows(bundle, vocabularies or {}))
    return Inspection(facts=list(_facts(bundle)), rows=rows, notes=bundle.notes)


def cells(row: Row) -> tuple[str, ...]:
    """A row as texts under HEAD."""
    norm = " / ".join(f"{value:.3g}" for value in dict.fromkeys(row.norms))
    relative = "" if row.relative is None else f"{row.relative:.2f} x"
    counts = (str(row.vectors), str(row.width))
    return (row.name, row.encoder, row.kind, *counts, norm, relative, row.nearest, row.remarks)


def as_text(found: Inspection) -> str:
    """Facts, the table with aligned columns, and the sentences."""
    lines = [f"{label}: {value}" for label, value in found.facts]
    if found.rows:
        lines += ["", *_aligned([HEAD, *map(cells, found.rows)])]
    return "\n".join([*lines, *([""] if found.notes else []), *found.notes])


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    used = [place for place in range(len(widths)) if any(row[place] for row in table[1:])]
    return ["  ".join(row[place].ljust(widths[place]) for place in used).rstrip() for row in table]


def file_hash(path: Path) -> str:
    """SHA-256 of a whole file, of which CivitAI's AutoV2 is the first ten digits."""
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1024**2):
            whole.update(block)
    return whole.hexdigest()


def _facts(bundle: Bundle) -> Iterator[tuple[str, str]]:
    yield "family", bundle.family or "not told by the file"
    yield "LoRA", _lora_text(bundle.lora)
    yield "names", ", ".join(bundle.names) or "none"
    yield "triggers", ", ".join(f"embedding:{name}" for name in bundle.names) or "none"
    for entry in bundle.entry_of.values():
        parts = [f"from {entry.initial!r}" if entry.initial else ""]
        parts += [f"captions said {entry.placeholder!r}" if entry.placeholder else ""]
        if any(parts):
            yield entry.name, ", ".join(filter(None, parts))
    if bundle.source:
        yield "file", bundle.source
    yield from _recipe(bundle.recipe)
    yield "graph", "in the file" if bundle.workflow else "none"
    pictures = sum(bool(entry.thumbnail) for entry in bundle.entry_of.values())
    yield "thumbnails", str(pictures + bool(bundle.thumbnail))


def _recipe(recipe: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The values of a recipe, whatever it holds, a line for each that is no list."""
    for key, value in list(recipe.items())[:60]:
        if isinstance(value, Mapping) and "." not in prefix:
            yield from _recipe(cast("Mapping[str, object]", value), f"{prefix}{key}.")
        elif isinstance(value, str | int | float) and value != "":
            yield f"{prefix}{key}", str(value)[:200]


def _lora_text(lora: Mapping[str, Tensor]) -> str:
    downs = [key for key in lora if key.endswith(_DOWNS)]
    if not lora:
        return "none"
    ranks = sorted({lora[key].shape[0] for key in downs})
    alphas = sorted(
        {float(t) for key, t in lora.items() if key.endswith(".alpha") and t.numel() == 1}
    )
    text = sum("te" in key.split("_")[1:2][0:1] or "text" in key for key in downs)
    others = sum(not key.endswith(_FACTORS) for key in lora)
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in lora.values()})
    parts = [f"{len(downs)} layers in two factors" if downs else f"{len(lora)} tensors"]
    parts += [f"{text} of them in the text encoders"] if text else []
    parts += [f"{others} other tensors"] if downs and others else []
    parts += [f"rank {_few(ranks)}"] if ranks else []
    parts += [f"alpha {_few(alphas)}"] if alphas else []
    return ", ".join([*parts, "/".join(types)])


_DOWNS = (*(f".{down}" for _, down in PAIRS), UNDERSCORED[1])
_UPS = (*(f".{up}" for up, _ in PAIRS), UNDERSCORED[0])
_FACTORS = (*_UPS, *_DOWNS, ".lora_mid.weight", ".alpha")


def _few(numbers: Sequence[float]) -> str:
    shown = [f"{number:g}" for number in numbers]
    return ", ".join(shown) if len(shown) < 4 else f"{shown[0]} to {shown[-1]}"


def _rows(bundle: Bundle, vocabularies: Mapping[str, Vocabulary]) -> Iterator[Row]:
    seen: dict[bytes, str] = {}
    medians = {key: known.norms().median().item() for key, known in vocabularies.items()}
    for kind, embeddings in (("input", bundle.embeddings), ("output", bundle.outputs)):
        for name, vectors in embeddings.items():
            for encoder, rows in vectors.items():
                known = vocabularies.get(encoder) if kind == "input" else None
                yield Row(
                    name=name,
                    encoder=encoder,
                    kind=kind,
                    vectors=rows.shape[0],
                    width=rows.shape[1],
                    norms=_spread(rows),
                    relative=_lengths(rows).mean().item() / medians[encoder] if known else None,
                    nearest=_nearest(rows, known),
                    remarks=", ".join(_remarks(rows, f"{name}.{encoder}", seen)),
                )


def _spread(rows: Tensor) -> tuple[float, float, float]:
    norms = _lengths(rows)
    return norms.amin().item(), norms.mean().item(), norms.amax().item()


def _nearest(rows: Tensor, known: Vocabulary | None) -> str:
    """The word that each vector is closest to, and how close the closest of all is."""
    if known is None or rows.shape[1] != known.table.shape[1] or not rows.isfinite().all():
        return ""
    found = [known.nearest(row) for row in rows[:8]]
    words = " ".join(f"{one[0][0]} {one[0][1]:.2f}" for one in found)
    return words + (" ..." if len(rows) > len(found) else "")


def _remarks(rows: Tensor, place: str, seen: dict[bytes, str]) -> Iterator[str]:
    bad = int((~rows.isfinite()).sum())
    if bad:
        yield f"{bad} values are NaN or infinite"
    elif rows.abs().amax().item() < _NEAR_ZERO:
        yield "near zero"
    digest = hashlib.sha256(rows.float().contiguous().numpy().tobytes()).digest()
    first = seen.setdefault(digest, place)
    if first != place:
        yield f"the same as {first}"
