"""A LoRA direction by direction: its singular values, trimmed, scaled and plotted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import cast

from PIL import Image, ImageDraw
from torch import Tensor

from .bundle import few
from .layers.peft_keys import MAGNITUDE, magnitude_layer
from .lowrank import (
    LoraFile,
    Stored,
    Svd,
    count_for_share,
    decompose,
    difference,
    layer_tensors,
    restored,
    scale_values,
    split_lora,
    store,
    trim,
)

_CELL, _COLUMNS, _MARGIN = (240, 140), 4, 38
_DECADES = 4
"""How far the axis reaches below the largest value"""
_MOST_POSITION = 4096
_BLOCK = re.compile(r"^(.*?(?:blocks?|layers?)[._]\d+|.*?middle_block|.*?mid_block)(?=[._])")
_PREFIX = re.compile(r"^(diffusion_model\.|lora_unet_|text_encoders\.|lora_)")


class Keep(str, Enum):
    """Which singular values of each layer are kept."""

    ALL = "everything"
    COUNT = "a number of values"
    SHARE = "a share of energy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trimming:
    """What happens to the singular values of every layer."""

    keep: Keep = Keep.ALL
    count: int = 8
    share: float = 0.95
    """Of the sum of squares"""
    values: str = ""
    """Lines of `position = factor` or `first-last = factor`; position 1 is the largest value"""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count is {self.count}: use at least 1.")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}: use more than 0, up to 1.")
        parse_factors(self.values)

    @property
    def is_none(self) -> bool:
        """Whether every layer stays as it is."""
        return self.keep is Keep.ALL and not parse_factors(self.values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trimmed:
    """A LoRA after its values were trimmed and scaled."""

    lora: Mapping[str, Tensor]
    before: Mapping[str, Tensor]
    """Singular values by layer"""
    after: Mapping[str, Tensor]
    errors: Mapping[str, float]
    """Relative Frobenius distance of each layer's change from what it was"""
    others: int
    """How many tensors are not low-rank factors and stay as they are"""
    empty: Sequence[str] = ()
    """Layers of rank 0, which change nothing"""


def trim_lora(lora: Mapping[str, Tensor], trimming: Trimming) -> Trimmed:
    """Trim and scale every low-rank layer; ValueError if there is none."""
    file = split_lora(lora)
    if not file.layers:
        raise ValueError(
            "This file has no low-rank layer, and so no singular values: LoHa, LoKr, OFT and "
            "embeddings have none. Choose a LoRA."
        )
    factors = parse_factors(trimming.values)
    before: dict[str, Stored] = {}
    after: dict[str, Stored] = {}
    errors: dict[str, float] = {}
    stored: dict[str, Stored] = {}
    # One layer at a time, since its factors in fp64 are many times as large as in the file.
    for stem in file.layers:
        made, had, has, errors[stem] = _trimmed(stem, file, trimming, factors)
        before[stem], after[stem] = store(had), store(has)
        if not trimming.is_none:
            stored |= {key: store(tensor) for key, tensor in made.items()}
        del made, had, has
    tensors = restored(stored)
    return Trimmed(
        lora=dict(lora) if trimming.is_none else tensors | dict(file.others),
        before=restored(before),
        after=restored(after),
        errors=errors,
        others=len(file.others),
        empty=file.empty,
    )


def _trimmed(
    stem: str, file: LoraFile, trimming: Trimming, factors: Mapping[int, float]
) -> tuple[dict[str, Tensor], Tensor, Tensor, float]:
    """A layer's new tensors, its singular values before and after, and the error."""
    layer = file.layers[stem]
    svd = decompose(layer)
    changed = scale_values(_kept(svd, trimming), factors)
    made = changed.low_rank()
    error = difference(layer, made)
    return layer_tensors(stem, made), svd.values, changed.values, error


def _kept(svd: Svd, trimming: Trimming) -> Svd:
    if trimming.keep is Keep.ALL:
        return svd
    if trimming.keep is Keep.COUNT:
        return trim(svd, trimming.count)
    # No loader takes rank 0, so a layer that learned nothing keeps one value, which is 0.
    return trim(svd, max(1, count_for_share(svd.values, trimming.share)))


def parse_factors(text: str) -> dict[int, float]:
    """Factors by position, counted from 0, of lines such as `1 = 0.5` or `3-8 = 0`."""
    factors: dict[int, float] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?\s*=\s*([-+.\deE]+)", line)
        factor = _number(match[3]) if match else math.nan
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else 0
        if not math.isfinite(factor) or not 1 <= first <= last <= _MOST_POSITION:
            raise ValueError(
                f'The line "{line}" of values is not understood: write position = factor, such as '
                "1 = 0.5 or 3-8 = 0, where 1 is the largest value."
            )
        factors |= dict.fromkeys(range(first - 1, last), factor)
    return factors


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def by_block(layers: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Layer names by the block of the model that they belong to, in the order of the file."""
    blocks: dict[str, list[str]] = {}
    for stem in layers:
        name = _PREFIX.sub("", stem)
        block = _BLOCK.match(name)
        blocks.setdefault(block[1] if block else "others", []).append(stem)
    return blocks


def spectrum_report(trimmed: Trimmed) -> str:
    """One line per block: size, number of values before and after, and relative error."""
    total = _error(trimmed, list(trimmed.before))
    ranks = [*map(len, trimmed.after.values())]
    lines = [
        f"{len(trimmed.before)} low-rank layers, {min(ranks)} to {max(ranks)} values each",
        f"error of the whole: {100 * total:.3f} %",
    ]
    if trimmed.others:
        lines.append(f"{trimmed.others} tensors are not low-rank factors and stay as they are")
    if trimmed.empty:
        lines.append(f"{len(trimmed.empty)} layers of rank 0 change nothing: {few(trimmed.empty)}")
    if any(map(magnitude_layer, trimmed.lora)):
        lines.append(f"a DoRA of PEFT: only Load Bundle reads the lengths under {MAGNITUDE}")
    for block, stems in by_block(trimmed.before).items():
        size = _size([trimmed.before[stem] for stem in stems])
        had = sum(len(trimmed.before[stem]) for stem in stems)
        has = sum(len(trimmed.after[stem]) for stem in stems)
        error = 100 * _error(trimmed, stems)
        lines.append(f"{block}: size {size:.4g}, {had} values -> {has}, error {error:.3f} %")
    return "\n".join(lines)


def _size(spectra: Sequence[Tensor]) -> float:
    """Frobenius norm of several changes together, from their singular values."""
    return math.sqrt(sum(values.square().sum().item() for values in spectra))


def _error(trimmed: Trimmed, stems: Sequence[str]) -> float:
    """Relative error of several layers together."""
    sizes = {stem: _size([trimmed.before[stem]]) for stem in stems}
    whole = math.sqrt(sum(size**2 for size in sizes.values()))
    gap = math.sqrt(sum((trimmed.errors[stem] * size) ** 2 for stem, size in sizes.items()))
    return gap / whole if whole else 0.0


def spectrum_plot(trimmed: Trimmed) -> Image.Image:
    """One panel per block: the values of each layer, gray before and blue after.

    All panels share a logarithmic axis of four decades below the largest value of the file.
    """
    blocks = by_block(trimmed.before)
    rows = math.ceil(len(blocks) / _COLUMNS)
    image = Image.new("RGB", (_COLUMNS * _CELL[0], rows * _CELL[1]), "white")
    largest = [values[0].item() for values in trimmed.before.values() if len(values)]
    top = max(largest, default=0.0) or 1.0
    for number, (block, stems) in enumerate(blocks.items()):
        corner = (number % _COLUMNS * _CELL[0], number // _COLUMNS * _CELL[1])
        lines: list[tuple[list[float], str]] = [
            (cast("list[float]", spectra[stem].tolist()), color)  # pyright: ignore
            for spectra, color in ((trimmed.before, "#c0c0c0"), (trimmed.after, "#1f5fd0"))
            for stem in stems
        ]
        _panel(ImageDraw.Draw(image), corner, block, lines, top)
    return image


def _panel(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    title: str,
    lines: Sequence[tuple[Sequence[float], str]],
    top: float,
) -> None:
    left, upper = corner[0] + _MARGIN, corner[1] + _MARGIN
    width, height = _CELL[0] - _MARGIN - 10, _CELL[1] - _MARGIN - 18
    draw.text((left, corner[1] + 8), title[-32:], fill="black")
    for decade in range(_DECADES + 1):
        y = upper + height * decade / _DECADES
        draw.line([(left, y), (left + width, y)], fill="#e8e8e8")
        draw.text((corner[0] + 1, y - 5), f"{top / 10**decade:.0e}", fill="#808080")
    longest = max((len(values) for values, _ in lines), default=1)
    for values, color in lines:
        points = [
            (left + width * i / max(longest - 1, 1), upper + height * _depth(value, top))
            for i, value in enumerate(values)
        ]
        if points:
            draw.line(points if len(points) > 1 else points * 2, fill=color, width=2)
    draw.text((left, upper + height + 4), f"1 to {longest}", fill="#808080")


def _depth(value: float, top: float) -> float:
    """0 at the largest value, 1 at the end of the axis and below."""
    if value <= 0:
        return 1.0
    return min(1.0, math.log10(top / value) / _DECADES) if value < top else 0.0
