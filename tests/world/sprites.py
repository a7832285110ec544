"""The sprite world: captioned 64 x 64 pictures of one flat sprite on a flat background."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

CELLS = 8
CELL_PIXELS = 8
PICTURE_PIXELS = CELLS * CELL_PIXELS
JITTER = 0.03

Color = tuple[float, float, float]
Bitmap = tuple[str, ...]

# Corners of a cube inside 0..1: any two differ by 0.8 in some channel, and jitter never clips.
COLORS: Mapping[str, Color] = MappingProxyType(
    {
        "red": (0.9, 0.1, 0.1),
        "green": (0.1, 0.9, 0.1),
        "blue": (0.1, 0.1, 0.9),
        "yellow": (0.9, 0.9, 0.1),
        "pink": (0.9, 0.1, 0.9),
        "cyan": (0.1, 0.9, 0.9),
        "white": (0.9, 0.9, 0.9),
        "black": (0.1, 0.1, 0.1),
    }
)
SHAPES: Mapping[str, Bitmap] = MappingProxyType(
    {
        "square": ("######", "######", "######", "######", "######", "######"),
        "ring": ("######", "#....#", "#....#", "#....#", "#....#", "######"),
        "plus": ("..##..", "..##..", "######", "######", "..##..", "..##.."),
        "cross": ("##..##", ".####.", "..##..", "..##..", ".####.", "##..##"),
        "triangle": ("..##..", "..##..", ".####.", ".####.", "######", "######"),
        "moon": ("..####", ".###..", "###...", "###...", ".###..", "..####"),
        "cup": ("##..##", "##..##", "##..##", "##..##", "##..##", "######"),
        "hook": ("######", "######", "....##", "....##", "....##", "....##"),
    }
)
# Row and column of the sprite's upper left cell.
PLACES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "": (1, 1),
        "at the left": (1, 0),
        "at the right": (1, 2),
        "at the top": (0, 1),
        "at the bottom": (2, 1),
    }
)
OPENINGS = ("", "a picture of ", "pixel art, ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One sprite: names out of SHAPES, COLORS and PLACES; no place is the middle."""

    shape: str
    color: str
    background: str
    place: str = ""

    def __post_init__(self) -> None:
        if self.color == self.background:
            raise ValueError(f"color and background are both {self.color}: nothing would be seen.")

    @property
    def caption(self) -> str:
        """What a person would write under the picture."""
        place = f" {self.place}" if self.place else ""
        return f"a {self.color} {self.shape}{place} on a {self.background} background"


def all_scenes() -> list[Scene]:
    """Every scene of the closed world, in a fixed order."""
    return [
        Scene(shape=shape, color=color, background=background, place=place)
        for shape, color, background, place in itertools.product(SHAPES, COLORS, COLORS, PLACES)
        if color != background
    ]


def split_scenes(seed: int = 0, *, triples: int = 56) -> tuple[list[Scene], list[Scene]]:
    """Return (training, held out): `triples` of shape, color and background are never trained."""
    scenes = all_scenes()
    found = sorted({(scene.shape, scene.color, scene.background) for scene in scenes})
    held = set(random.Random(seed).sample(found, triples))
    sides: tuple[list[Scene], list[Scene]] = ([], [])
    for scene in scenes:
        sides[(scene.shape, scene.color, scene.background) in held].append(scene)
    return sides


def held_out_scenes(count: int = 200, seed: int = 0) -> list[Scene]:
    """The scenes the base is measured on: none of their triples was ever in its training."""
    return random.Random(seed + 1).sample(split_scenes(seed)[1], count)


def draw(scene: Scene, generator: torch.Generator | None = None) -> Tensor:
    """The scene as (64, 64, 3) pixels in 0..1; a generator shakes both colors a little."""
    cells = paint(
        SHAPES[scene.shape],
        {"#": COLORS[scene.color]},
        COLORS[scene.background],
        place=PLACES[scene.place],
        generator=generator,
    )
    return enlarge(cells)


def paint(
    bitmap: Sequence[str],
    inks: Mapping[str, Color],
    background: Color,
    *,
    place: tuple[int, int] = (1, 1),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Cells (8, 8, 3) of a bitmap whose characters name inks; "." shows the background."""
    cells = shaken(background, generator).repeat(CELLS, CELLS, 1)
    tones = {mark: shaken(color, generator) for mark, color in inks.items()}
    for row, line in enumerate(bitmap, start=place[0]):
        for column, mark in enumerate(line, start=place[1]):
            if mark != ".":
                cells[row, column] = tones[mark]
    return cells


def shaken(color: Color, generator: torch.Generator | None) -> Tensor:
    """A color as a tensor, moved by at most JITTER per channel."""
    tone = torch.tensor(color)
    if generator is not None:
        tone += (torch.rand(3, generator=generator) * 2 - 1) * JITTER
    return tone


def enlarge(cells: Tensor) -> Tensor:
    """Cells (8, 8, 3) to pixels (64, 64, 3)."""
    return cells.repeat_interleave(CELL_PIXELS, 0).repeat_interleave(CELL_PIXELS, 1)
