"""Contact sheets of a dataset, of its pictures and of the crops that are trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from PIL import Image, ImageDraw, ImageOps

from ...ports import Crop
from ..records import Record
from .decode import open_mask, open_small

CELL, TEXT, MARGIN, MOST = 160, 26, 6, 100
BACKGROUND, INK, WARN = (24, 24, 24), (210, 210, 210), (235, 160, 60)
CUT, FRAME = (200, 60, 60), (90, 220, 120)


def contact_sheet(records: Sequence[Record]) -> Image.Image:
    """Thumbnails of the first 100 pictures with names and flags."""
    cells = [
        _labelled(_thumbnail(record), record.name, ", ".join(record.flags))
        for record in records[:MOST]
    ]
    return _tiled(cells)


def crop_sheet(records: Sequence[Record], crops: Sequence[Crop]) -> Image.Image:
    """Whole pictures with a frame around the part that is trained and the rest darkened."""
    pairs = list(zip(records, crops, strict=True))[:MOST]
    cells = [
        _labelled(
            framed_crop(_thumbnail(record), crop),
            record.name,
            f"{crop.width} x {crop.height}, {crop.original_width} x {crop.original_height}",
        )
        for record, crop in pairs
    ]
    return _tiled(cells)


def framed_crop(small: Image.Image, crop: Crop) -> Image.Image:
    """A small version of the whole picture, dark red outside the part that is trained."""
    width, height = crop.resized
    scale_x, scale_y = small.width / width, small.height / height
    box = (
        round(crop.left * scale_x),
        round(crop.top * scale_y),
        max(round((crop.left + crop.width) * scale_x) - 1, 0),
        max(round((crop.top + crop.height) * scale_y) - 1, 0),
    )
    dark = Image.blend(small, Image.new("RGB", small.size, CUT), 0.6)
    inside = Image.new("L", small.size)
    ImageDraw.Draw(inside).rectangle(box, fill=255)
    shown = Image.composite(small, dark, inside)
    ImageDraw.Draw(shown).rectangle(box, outline=FRAME, width=2)
    return shown


def trained_view(record: Record, side: int, crop: Crop | None = None) -> Image.Image:
    """A small version of a picture, red where its mask is black or outside its crop.

    Raises ValueError if the picture cannot be read; an unreadable mask is ignored.
    """
    small = open_small(record, side)
    with suppress(ValueError):
        if mask := open_mask(record):
            red = Image.blend(small, Image.new("RGB", small.size, CUT), 0.6)
            small = Image.composite(small, red, mask.resize(small.size))
    return framed_crop(small, crop) if crop else small


def _thumbnail(record: Record) -> Image.Image:
    try:
        return open_small(record, CELL)
    except ValueError:
        return Image.new("RGB", (CELL, CELL), CUT)


def _labelled(picture: Image.Image, first: str, second: str) -> Image.Image:
    cell = Image.new("RGB", (CELL, CELL + TEXT), BACKGROUND)
    whole = ImageOps.pad(picture, (CELL, CELL), color=BACKGROUND)
    cell.paste(whole, (0, 0))
    draw = ImageDraw.Draw(cell)
    for row, (text, color) in enumerate(((first, INK), (second, WARN))):
        # Pillow's own font has only Latin letters.
        plain = text.encode("latin-1", "replace").decode("latin-1")
        draw.text((2, CELL + 1 + row * 12), plain[-27:], fill=color)
    return cell


def _tiled(cells: Sequence[Image.Image]) -> Image.Image:
    if not cells:
        return Image.new("RGB", (CELL, CELL), BACKGROUND)
    across = min(10, max(1, round((len(cells) * 1.3) ** 0.5)))
    rows = -(-len(cells) // across)
    size = (across * (CELL + MARGIN) + MARGIN, rows * (CELL + TEXT + MARGIN) + MARGIN)
    sheet = Image.new("RGB", size, BACKGROUND)
    for corner, cell in zip(_corners(across), cells, strict=False):
        sheet.paste(cell, corner)
    return sheet


def _corners(across: int) -> Iterator[tuple[int, int]]:
    number = 0
    while True:
        row, column = divmod(number, across)
        yield MARGIN + column * (CELL + MARGIN), MARGIN + row * (CELL + TEXT + MARGIN)
        number += 1
