"""Grids that compare bundles: the pictures to sample for each cell, and a report."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from PIL import Image
from torch import Tensor

from ....bundles.bundle import Bundle
from ....training.dataset.pictures.pixels import to_picture
from ....training.evaluation.grid import labelled_grid
from ....training.evaluation.metrics import mean_difference
from ..bundle.apply import apply_bundle
from ..denoiser.families import check_clip, check_vae
from ..images import as_image
from ..sampling import Sampling, Shot, make_pictures

ANY_NAME = "{name}"
CONCEPT_COLUMNS = ("with the concept", "without it, LoRA on", "without it, base model")
OTHER_COLUMN = "another name in its place"


@dataclass(frozen=True, kw_only=True, slots=True)
class GridRequest:
    """The prompts, seeds and settings of a grid."""

    model: ModelPatcher
    clip: CLIP
    vae: VAE
    prompts: Sequence[str]
    """`{name}` stands for all names of a bundle, `{cat}` for its name cat."""
    negative: str
    seeds: Sequence[int]
    sampling: Sampling
    without: str
    """The word that replaces a name which a bundle or the base model lacks."""
    largest_side: int
    """Pictures with a longer side, in pixels, are shrunk in the grid."""

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("There is no prompt: write at least one line.")
        check_clip(self.model, self.clip)
        check_vae(self.model, self.vae)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """The labelled grid (1, h, w, 3), the pictures at full size (n, h, w, 3), and a report."""

    grid: Tensor
    pictures: Tensor
    report: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A labelled column of a grid: models with the names that they know."""

    label: str
    model: ModelPatcher
    clip: CLIP
    names: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """The sampled pictures of a grid; cells[row][column] are keys of `pictures`."""

    cells: Sequence[Sequence[Shot]]
    pictures: dict[Shot, Tensor]
    seconds: float

    def columns(self) -> list[Tensor]:
        """The pictures of each column, (rows, height, width, 3)."""
        return [self._stack(column) for column in zip(*self.cells, strict=True)]

    def _stack(self, shots: Sequence[Shot]) -> Tensor:
        return torch.stack([self.pictures[shot] for shot in shots])


def compare_bundles(
    request: GridRequest,
    bundles: Sequence[Bundle | None],
    labels: Sequence[str],
    strengths: Sequence[float],
    *,
    with_base: bool,
    bundles_down: bool,
) -> Compared:
    """A row for each prompt and seed, a column for each bundle and strength."""
    columns = [_base(request, "without bundle")] if with_base else []
    for label, bundle in _labelled(bundles, labels):
        columns += [_tuned(request, bundle, f"{label}\nstrength {s:g}", s) for s in strengths]
    if not columns:
        raise ValueError("Nothing to compare: connect a bundle, or switch with_base on.")
    all_names = {name for column in columns for name in column.names}
    rows = [(prompt, seed) for prompt in request.prompts for seed in request.seeds]
    cells = [[_shot(request, c, prompt, seed, all_names) for c in columns] for prompt, seed in rows]
    sheet = _make_sheet(request, cells)
    down = [_row_label(request, prompt, seed) for prompt, seed in rows]
    across = [column.label for column in columns]
    if bundles_down:
        down, across, cells = across, down, list(zip(*cells, strict=True))
    report = [_headline(request, sheet), *_column_report(columns, sheet, with_base)]
    return _result(request, sheet, cells, down, across, report)


def report_concepts(request: GridRequest, bundle: Bundle) -> Compared:
    """A row for each name and seed: with the name, without it, and with another in its place."""
    names = list(bundle.embeddings)
    if not names:
        raise ValueError(
            "This bundle has no names, only a LoRA: use Compare Grid to see what it does."
        )
    if ANY_NAME not in request.prompts[0]:
        raise ValueError(f"The prompt has no {ANY_NAME}: write it where each name belongs.")
    base, tuned = _base(request, ""), _tuned(request, bundle, "", 1.0)
    words, others = _words(request, bundle), dict(zip(names, names[1:] + names[:1], strict=True))
    rows = [(name, seed) for name in names for seed in request.seeds]
    cells: list[list[Shot]] = []
    for name, seed in rows:
        spelled = [(tuned, _trigger(name)), (tuned, words[name]), (base, words[name])]
        spelled += [(tuned, _trigger(others[name]))] if len(names) > 1 else []
        cells.append([_spelled(request, column, text, seed) for column, text in spelled])
    sheet = _make_sheet(request, cells)
    across = [*CONCEPT_COLUMNS, *([OTHER_COLUMN] if len(names) > 1 else [])]
    down = [_concept_label(request, name, seed, words[name], others[name]) for name, seed in rows]
    report = [_headline(request, sheet), f"prompt: {request.prompts[0]}", *tuned.notes]
    for index, name in enumerate(names):
        start = index * len(request.seeds)
        own = [pictures[start : start + len(request.seeds)] for pictures in sheet.columns()]
        report += _concept_report(bundle, name, words[name], others[name], own)
    return _result(request, sheet, cells, down, across, report)


def spell(prompt: str, names: Sequence[str], known: Collection[str], word: str) -> str:
    """A prompt for models that know `names`; `{cat}` of any other known name becomes the word."""

    def spelled(match: re.Match[str]) -> str:
        inside = match[1]
        if match[0] == ANY_NAME:
            return ", ".join(map(_trigger, names)) or word
        if inside in names:
            return _trigger(inside)
        return word if inside in known else match[0]

    return re.sub(r"\{([^{}]*)\}", spelled, prompt)


def _labelled(bundles: Sequence[Bundle | None], labels: Sequence[str]) -> list[tuple[str, Bundle]]:
    """Bundles with the given labels, or with a number and names if there are too few labels."""
    labelled: list[tuple[str, Bundle]] = []
    for number, bundle in enumerate(bundles, start=1):
        if bundle is not None:
            names = ", ".join(bundle.embeddings)
            own = f"bundle {number}: {names}" if names else f"bundle {number}"
            label = labels[len(labelled)] if len(labelled) < len(labels) else own
            labelled.append((label, bundle))
    return labelled


def _trigger(name: str) -> str:
    return f"embedding:{name}"


def _base(request: GridRequest, label: str) -> Column:
    return Column(label=label, model=request.model, clip=request.clip)


def _tuned(request: GridRequest, bundle: Bundle, label: str, strength: float) -> Column:
    model, clip, names, notes = apply_bundle(
        request.model, request.clip, bundle, strength_model=strength, strength_clip=strength
    )
    return Column(label=label, model=model, clip=clip, names=names, notes=notes)


def _shot(
    request: GridRequest, column: Column, prompt: str, seed: int, known: Collection[str]
) -> Shot:
    return Shot(
        model=column.model,
        clip=column.clip,
        prompt=spell(prompt, column.names, known, request.without),
        negative=spell(request.negative, column.names, known, request.without),
        seed=seed,
    )


def _spelled(request: GridRequest, column: Column, text: str, seed: int) -> Shot:
    """A shot of the first prompt with a text in place of `{name}`."""
    return Shot(
        model=column.model,
        clip=column.clip,
        prompt=request.prompts[0].replace(ANY_NAME, text),
        negative=request.negative.replace(ANY_NAME, text),
        seed=seed,
    )


def _make_sheet(request: GridRequest, cells: Sequence[Sequence[Shot]]) -> Sheet:
    """Sample column by column, so that each bundle is patched once; equal shots are made once."""
    shots = list(dict.fromkeys(shot for column in zip(*cells, strict=True) for shot in column))
    started = time.monotonic()
    pictures = make_pictures(shots, request.vae, request.sampling)
    seconds = time.monotonic() - started
    return Sheet(cells=cells, pictures=dict(zip(shots, pictures, strict=True)), seconds=seconds)


def _result(
    request: GridRequest,
    sheet: Sheet,
    cells: Sequence[Sequence[Shot]],
    down: Sequence[str],
    across: Sequence[str],
    report: Sequence[str],
) -> Compared:
    small = [[_picture(sheet.pictures[s], request.largest_side) for s in row] for row in cells]
    grid = labelled_grid(small, down, across, request.sampling.text())
    return Compared(
        grid=as_image(grid),
        pictures=torch.stack(list(sheet.pictures.values())),
        report="\n".join(report),
    )


def _picture(pixels: Tensor, largest_side: int) -> Image.Image:
    """A picture of the grid from (height, width, 3) in 0..1."""
    # The levels that Save Image writes for the same pixels.
    picture = to_picture(pixels, truncate=True)
    if max(picture.size) > largest_side:
        picture.thumbnail((largest_side, largest_side), Image.Resampling.LANCZOS)
    return picture


def _row_label(request: GridRequest, prompt: str, seed: int) -> str:
    return f"{prompt}\nseed {seed}" if len(request.seeds) > 1 else prompt


def _concept_label(request: GridRequest, name: str, seed: int, word: str, other: str) -> str:
    lines = [name, f'without: "{word}"' if word else "without: nothing"]
    lines += [f"other: {other}"] if other != name else []
    return "\n".join([*lines, f"seed {seed}"])


def _words(request: GridRequest, bundle: Bundle) -> dict[str, str]:
    """The word that replaces each name: the given one, or the name's initial word."""
    initial = {entry.name: entry.initial for entry in bundle.entries}
    return {name: request.without or initial.get(name, "") for name in bundle.embeddings}


def _headline(request: GridRequest, sheet: Sheet) -> str:
    return f"{len(sheet.pictures)} images in {sheet.seconds:.1f} s: {request.sampling.text()}"


def _column_report(columns: Sequence[Column], sheet: Sheet, with_base: bool) -> list[str]:
    """Each column's prompts as they were encoded, and its distance from the base."""
    lines: list[str] = []
    pictures = sheet.columns()
    shots = list(zip(*sheet.cells, strict=True))
    for index, column in enumerate(columns):
        label = column.label.replace("\n", ", ")
        away = ""
        if with_base and index:
            away = f": {_percent(pictures[0], pictures[index])} from the base"
        lines += [
            f"{label}{away}",
            *(f"  {p}" for p in dict.fromkeys(s.prompt for s in shots[index])),
        ]
        lines += [f"  {note}" for note in column.notes]
    return lines


def _concept_report(
    bundle: Bundle, name: str, word: str, other: str, pictures: Sequence[Tensor]
) -> list[str]:
    sizes = ", ".join(f"{len(rows)} in {key}" for key, rows in bundle.embeddings[name].items())
    lines = [
        f"{_trigger(name)} (vectors: {sizes})",
        f'  {_percent(pictures[0], pictures[1])} from "{word}" with the LoRA',
        f'  {_percent(pictures[1], pictures[2])} is what the LoRA alone does to "{word}"',
    ]
    if len(pictures) > 3:
        lines.append(f"  {_percent(pictures[0], pictures[3])} from {other}")
    return lines


def _percent(first: Tensor, second: Tensor) -> str:
    return f"{100 * mean_difference(first, second):.2f} %"
