"""Draws icon.png and banner.png: a beam on its pivot, vectors on one side, factors on the other.

`python docs/artwork.py` writes both into the root of the repository.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
INK, PAPER = (18, 24, 38), (244, 240, 230)
SALMON, TEAL, GOLD = (240, 128, 112), (38, 166, 154), (240, 190, 90)
SCALE = 4
TILT = math.radians(-12)


class Sheet:
    """A picture drawn large and made smaller, so that its edges are smooth."""

    def __init__(self, width: int, height: int, color: tuple[int, int, int]) -> None:
        self.size = width, height
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), color)
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, points: list[tuple[float, float]], color: tuple[int, int, int]) -> None:
        self.draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=color)

    def circle(self, x: float, y: float, r: float, color: tuple[int, int, int]) -> None:
        box = [(x - r) * SCALE, (y - r) * SCALE, (x + r) * SCALE, (y + r) * SCALE]
        self.draw.ellipse(box, fill=color)

    def save(self, path: Path) -> None:
        small = self.image.resize(self.size, Image.Resampling.LANCZOS)
        small.quantize(64).save(path, optimize=True)


def turned(x: float, y: float, dx: float, dy: float) -> tuple[float, float]:
    """A point of the beam: dx along it and dy above it, from its middle (x, y)."""
    cos, sin = math.cos(TILT), math.sin(TILT)
    return x + dx * cos + dy * sin, y + dx * sin - dy * cos


def emblem(sheet: Sheet, x: float, y: float, unit: float) -> None:
    """The beam around (x, y); it is 16 units long."""

    def slab(left: float, right: float, low: float, high: float, color: tuple[int, int, int]):
        corners = [(left, low), (right, low), (right, high), (left, high)]
        sheet.polygon([turned(x, y, a * unit, b * unit) for a, b in corners], color)

    sheet.polygon([(x, y), (x - 3.2 * unit, y + 6 * unit), (x + 3.2 * unit, y + 6 * unit)], GOLD)
    slab(-8, 8, -0.45, 0.45, PAPER)
    for row, column in ((0, -6.6), (0, -4.6), (0, -2.6), (1, -5.6), (1, -3.6), (2, -4.6)):
        place = turned(x, y, column * unit, (1.5 + 1.75 * row) * unit)
        sheet.circle(*place, 0.85 * unit, SALMON)
    slab(2.4, 3.9, 0.7, 6.2, TEAL)
    slab(4.4, 7.6, 4.7, 6.2, TEAL)


def icon() -> None:
    sheet = Sheet(400, 400, INK)
    emblem(sheet, 200, 215, 21)
    sheet.save(ROOT / "icon.png")


def banner(font: str) -> None:
    """1680 by 720, which is 21:9."""
    sheet = Sheet(1680, 720, INK)
    emblem(sheet, 390, 380, 34)
    for text, top, size, color in (
        ("Pivotal", 235, 170, PAPER),
        ("Train named concepts where you sample them.", 455, 34, GOLD),
    ):
        face = ImageFont.truetype(font, size * SCALE)
        sheet.draw.text((760 * SCALE, top * SCALE), text, font=face, fill=color)
    sheet.save(ROOT / "banner.png")


if __name__ == "__main__":
    icon()
    banner(sys.argv[1] if len(sys.argv) > 1 else "DejaVuSans-Bold.ttf")
