"""Says what a picture of the sprite world shows, by the arithmetic of its 8 x 8 cells alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .sprites import CELL_PIXELS, CELLS, COLORS, SHAPES, Bitmap, Color

# Euclidean distances in color space; two named colors are at least 0.57 apart.
SAME_COLOR = 0.28
# Cells that may be wrong; two shapes differ in at least 10.
WRONG_CELLS = 4
# Pixels at a cell's rim are left out, which forgives a blurred edge.
RIM = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Names of what was seen, None for what is not clear; `colors` maps a bitmap's marks."""

    shape: str | None
    colors: Mapping[str, str | None]
    background: str | None
    place: tuple[int, int] | None
    hatched: bool

    @property
    def color(self) -> str | None:
        """The color of a sprite of one color."""
        return self.colors.get("#")


def judge(
    pixels: Tensor,
    shapes: Mapping[str, Bitmap] = SHAPES,
    colors: Mapping[str, Color] = COLORS,
    *,
    hatching: Color | None = None,
) -> Verdict:
    """Judge (64, 64, 3) pixels; `hatching` is the color that may cover every second sprite row."""
    cells = cell_colors(pixels)
    background = most_common(nearest(rim_of(cells), colors))
    if background is None:
        return Verdict(shape=None, colors={}, background=None, place=None, hatched=False)
    shown = shown_cells(cells, colors[background])
    shape, place = nearest_shape(shown, shapes)
    if shape is None:
        return Verdict(shape=None, colors={}, background=background, place=None, hatched=False)
    names = nearest(cells.flatten(0, 1), colors)
    gray = torch.zeros_like(shown)
    if hatching is not None:
        gray = (cells - torch.tensor(hatching)).norm(dim=-1) < SAME_COLOR
    return Verdict(
        shape=shape,
        colors=ink_colors(names, shapes[shape], place, gray),
        background=background,
        place=place,
        hatched=is_hatched(gray, shown),
    )


def cell_colors(pixels: Tensor) -> Tensor:
    """Mean colors (8, 8, 3) of the cells' inner pixels."""
    cells = pixels.float().unflatten(1, (CELLS, CELL_PIXELS)).unflatten(0, (CELLS, CELL_PIXELS))
    return cells[:, RIM:-RIM, :, RIM:-RIM].mean((1, 3))


def rim_of(cells: Tensor) -> Tensor:
    """The 28 outermost cells; a sprite at a side covers at most six of them."""
    return torch.cat((cells[0], cells[-1], cells[1:-1, 0], cells[1:-1, -1]))


def nearest(cells: Tensor, colors: Mapping[str, Color]) -> list[str | None]:
    """The names of the colors that are near enough to cells (n, 3), or None."""
    names = list(colors)
    distances = torch.cdist(cells, torch.tensor([colors[name] for name in names]))
    least, index = distances.min(1)
    pairs = zip(least.tolist(), index.tolist(), strict=True)
    return [names[i] if distance < SAME_COLOR else None for distance, i in pairs]


def most_common(names: list[str | None]) -> str | None:
    """The name that more than half of the cells bear, or None."""
    name, count = Counter(names).most_common(1)[0]
    return name if 2 * count > len(names) else None


def nearest_shape(
    shown: Tensor, shapes: Mapping[str, Bitmap]
) -> tuple[str | None, tuple[int, int]]:
    """The shape and place whose silhouette differs from `shown` (8, 8) in the fewest cells."""
    found, wrong = wrong_cells(shown, shapes)
    best = int(wrong.argmin())
    return found[best] if wrong[best] <= WRONG_CELLS else (None, (0, 0))


def wrong_cells(
    shown: Tensor, shapes: Mapping[str, Bitmap]
) -> tuple[list[tuple[str, tuple[int, int]]], Tensor]:
    """All shapes at all places, and in how many cells each differs from `shown` (8, 8)."""
    found, ideals = silhouettes(tuple(shapes.items()))
    return found, (ideals != shown).sum((1, 2))


def silhouette_error(pixels: Tensor, bitmap: Bitmap, background: Color) -> int:
    """In how many of its 64 cells a picture differs from the bitmap at its best place."""
    return int(wrong_cells(shown_cells(cell_colors(pixels), background), {"": bitmap})[1].min())


def shown_cells(cells: Tensor, background: Color) -> Tensor:
    """Which of the cells (8, 8, 3) are not of the background's color."""
    return (cells - torch.tensor(background)).norm(dim=-1) > SAME_COLOR


@lru_cache
def silhouettes(
    shapes: tuple[tuple[str, Bitmap], ...],
) -> tuple[list[tuple[str, tuple[int, int]]], Tensor]:
    """Names with places, and which cells (n, 8, 8) the shapes cover there."""
    found = [
        (name, (row, column), bitmap)
        for name, bitmap in shapes
        for row in range(CELLS - len(bitmap) + 1)
        for column in range(CELLS - len(bitmap[0]) + 1)
    ]
    masks = torch.stack([silhouette(bitmap, place) for _, place, bitmap in found])
    return [(name, place) for name, place, _ in found], masks


def silhouette(bitmap: Bitmap, place: tuple[int, int]) -> Tensor:
    """Which of the (8, 8) cells a bitmap covers."""
    mask = torch.zeros(CELLS, CELLS, dtype=torch.bool)
    for row, column, _ in cells_of(bitmap, place):
        mask[row, column] = True
    return mask


def cells_of(bitmap: Bitmap, place: tuple[int, int]) -> Iterator[tuple[int, int, str]]:
    """Row, column and mark of every cell that a bitmap covers."""
    for row, line in enumerate(bitmap, start=place[0]):
        for column, mark in enumerate(line, start=place[1]):
            if mark != ".":
                yield row, column, mark


def ink_colors(
    names: list[str | None], bitmap: Bitmap, place: tuple[int, int], hatched: Tensor
) -> dict[str, str | None]:
    """For every mark of a bitmap the color of most of its cells that bear no hatching."""
    seen: dict[str, list[str | None]] = {}
    for row, column, mark in cells_of(bitmap, place):
        if not hatched[row, column]:
            seen.setdefault(mark, []).append(names[row * CELLS + column])
    return {mark: most_common(found) for mark, found in seen.items()}


def is_hatched(gray: Tensor, shown: Tensor) -> bool:
    """Whether at least 80 % of the sprite is gray in odd rows and not gray in even ones."""
    rows = torch.arange(CELLS).unsqueeze(1)
    right = (gray == (rows % 2 == 1)) & shown
    return bool(gray.any()) and 10 * int(right.sum()) >= 8 * int(shown.sum())
