"""What a LoRA learned, direction by direction: its singular values, trimmed, scaled and drawn."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import cast

from PIL import Image, ImageDraw
from torch import Tensor

from .layers.peft_keys import MAGNITUDE, magnitude_layer
from .lowrank import (
    LoraFile,
    Svd,
    count_for_share,
    decompose,
    difference,
    join_lora,
    scale_values,
    split_lora,
    trim,
)

CELL, COLUMNS, MARGIN = (240, 140), 4, 38
DECADES = 4
_BLOCK = re.compile(r"^(.*?(?:blocks?|layers?)[._]\d+|.*?middle_block|.*?mid_block)(?=[._])")
_PREFIX = re.compile(r"^(diffusion_model\.|lora_unet_|text_encoders\.|lora_)")


class Keep(str, Enum):
    """How much of each layer is kept."""

    ALL = "everything"
    COUNT = "a number of values"
    SHARE = "a share of energy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trimming:
    """What becomes of the singular values of every layer."""

    keep: Keep = Keep.ALL
    count: int = 8
    share: float = 0.95
    """Of the sum of squares"""
    values: str = ""
    """A line each: `place = factor` or `first-last = factor`, places from 1, the largest."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count is {self.count}: use at least 1.")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}: use more than 0, up to 1.")
        parse_factors(self.values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trimmed:
    """A LoRA after its values were trimmed and scaled."""

    lora: Mapping[str, Tensor]
    before: Mapping[str, Svd]
    """By layer"""
    after: Mapping[str, Svd]
    errors: Mapping[str, float]
    """Relative Frobenius distance of each layer's change from what it was"""
    left: int
    """How many tensors are no low-rank factors and stay as they are"""


def trim_lora(lora: Mapping[str, Tensor], trimming: Trimming) -> Trimmed:
    """Every low-rank layer with the values that are kept; ValueError where there is none."""
    file = split_lora(lora)
    if not file.layers:
        raise ValueError(
            "This file has no low-rank layer whose values could be shown: LoHa, LoKr, OFT and "
            "embeddings have none. Choose a LoRA."
        )
    factors = parse_factors(trimming.values)
    before = {stem: decompose(layer) for stem, layer in file.layers.items()}
    after = {stem: scale_values(_kept(svd, trimming), factors) for stem, svd in before.items()}
    layers = {stem: svd.low_rank() for stem, svd in after.items()}
    same = trimming.keep is Keep.ALL and not factors
    return Trimmed(
        lora=dict(lora) if same else join_lora(LoraFile(layers=layers, rest=file.rest)),
        before=before,
        after=after,
        errors={stem: difference(file.layers[stem], layer) for stem, layer in layers.items()},
        left=len(file.rest),
    )


def _kept(svd: Svd, trimming: Trimming) -> Svd:
    if trimming.keep is Keep.ALL:
        return svd
    if trimming.keep is Keep.COUNT:
        return trim(svd, trimming.count)
    # A LoRA of rank 0 is no LoRA: a layer that learned nothing keeps one value of 0.
    return trim(svd, max(1, count_for_share(svd.values, trimming.share)))


def parse_factors(text: str) -> dict[int, float]:
    """Factors by place from 0, of lines such as `1 = 0.5` or `3-8 = 0`."""
    factors: dict[int, float] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        found = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?\s*=\s*([-+.\deE]+)", line)
        factor = _number(found.group(3)) if found else math.nan
        first = int(found.group(1)) if found else 0
        last = int(found.group(2) or first) if found else 0
        if not math.isfinite(factor) or not 1 <= first <= last <= 4096:
            raise ValueError(
                f'The line "{line}" of values is not understood: write place = factor, such as '
                "1 = 0.5 or 3-8 = 0, where 1 is the largest value."
            )
        factors |= dict.fromkeys(range(first - 1, last), factor)
    return factors


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def by_block(layers: Mapping[str, Svd]) -> dict[str, list[str]]:
    """The layers' names by the block of the model that they belong to, in the order of the file."""
    blocks: dict[str, list[str]] = {}
    for stem in layers:
        name = _PREFIX.sub("", stem)
        found = _BLOCK.match(name)
        blocks.setdefault(found.group(1) if found else "others", []).append(stem)
    return blocks


def spectrum_report(trimmed: Trimmed) -> str:
    """A line a block: layers, size, values before and after, and the error made."""
    total = _error(trimmed, list(trimmed.before))
    ranks = [len(svd.values) for svd in trimmed.after.values()]
    lines = [
        f"{len(trimmed.before)} low-rank layers, {min(ranks)} to {max(ranks)} values each",
        f"error of the whole: {100 * total:.3f} %",
    ]
    if trimmed.left:
        lines.append(f"{trimmed.left} tensors are no low-rank factors and stay as they are")
    if any(map(magnitude_layer, trimmed.lora)):
        lines.append(f"a DoRA of PEFT: only Load Bundle reads the lengths under {MAGNITUDE}")
    for block, stems in by_block(trimmed.before).items():
        size = _size([trimmed.before[stem] for stem in stems])
        had = sum(len(trimmed.before[stem].values) for stem in stems)
        has = sum(len(trimmed.after[stem].values) for stem in stems)
        error = 100 * _error(trimmed, stems)
        lines.append(f"{block}: size {size:.4g}, {had} values -> {has}, error {error:.3f} %")
    return "\n".join(lines)


def _size(spectra: Sequence[Svd]) -> float:
    """Frobenius norm of several changes together."""
    return math.sqrt(sum(svd.values.square().sum().item() for svd in spectra))


def _error(trimmed: Trimmed, stems: Sequence[str]) -> float:
    """Relative error of several layers together."""
    sizes = {stem: _size([trimmed.before[stem]]) for stem in stems}
    whole = math.sqrt(sum(size**2 for size in sizes.values()))
    gap = math.sqrt(sum((trimmed.errors[stem] * size) ** 2 for stem, size in sizes.items()))
    return gap / whole if whole else 0.0


def spectrum_plot(trimmed: Trimmed) -> Image.Image:
    """A panel a block: each layer's values on a logarithmic axis, kept ones in blue over gray.

    All panels share an axis of four decades below the largest value of the file.
    """
    blocks = by_block(trimmed.before)
    rows = math.ceil(len(blocks) / COLUMNS)
    picture = Image.new("RGB", (COLUMNS * CELL[0], rows * CELL[1]), "white")
    largest = [svd.values[0].item() for svd in trimmed.before.values() if len(svd.values)]
    top = max(largest, default=0.0) or 1.0
    for place, (block, stems) in enumerate(blocks.items()):
        corner = (place % COLUMNS * CELL[0], place // COLUMNS * CELL[1])
        lines: list[tuple[list[float], str]] = [
            (cast("list[float]", spectra[stem].values.tolist()), color)  # pyright: ignore
            for spectra, color in ((trimmed.before, "#c0c0c0"), (trimmed.after, "#1f5fd0"))
            for stem in stems
        ]
        _panel(ImageDraw.Draw(picture), corner, block, lines, top)
    return picture


def _panel(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    title: str,
    lines: Sequence[tuple[Sequence[float], str]],
    top: float,
) -> None:
    left, upper = corner[0] + MARGIN, corner[1] + MARGIN
    width, height = CELL[0] - MARGIN - 10, CELL[1] - MARGIN - 18
    draw.text((left, corner[1] + 8), title[-32:], fill="black")
    for decade in range(DECADES + 1):
        y = upper + height * decade / DECADES
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
    """0 at the largest value, 1 at four decades below it and beyond."""
    if value <= 0:
        return 1.0
    return min(1.0, math.log10(top / value) / DECADES) if value < top else 0.0
