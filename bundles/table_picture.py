"""A bundle's table as an image, and images small enough for a file's header."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import islice

from PIL import Image, ImageDraw, ImageFont

from .bundle import Bundle
from .files.picture import open_thumbnail
from .inspection import Inspection, cells, with_head

THUMBNAIL = 256
"""Longest side of an image in a header, in pixels"""
_SIZE, _LINE, _MARGIN = 15, 22, 16
_MOST_FACTS, _MOST_ROWS, _MOST_THUMBNAILS = 40, 200, 8
_INK, _PALE, _PAPER, _STRIPE = (32, 34, 38), (110, 114, 122), (252, 252, 252), (240, 242, 245)

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def data_uri(image: Image.Image) -> str:
    """A JPEG of at most THUMBNAIL pixels a side as a data URI."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def from_uri(uri: str) -> Image.Image | None:
    """Decode a data-URI image; None if it is invalid or far larger than a thumbnail."""
    try:
        data = base64.b64decode(uri.partition(",")[2], validate=True)
        return open_thumbnail(data).convert("RGB")
    # An image from a stranger's file can be damaged in any way.
    except Exception:
        return None


def render(inspection: Inspection, bundle: Bundle) -> Image.Image:
    """Facts, thumbnails, the table and notes below each other, as wide as they need to be."""
    font = ImageFont.load_default(_SIZE)
    facts = [(label, _cut(value, 110)) for label, value in inspection.facts][:_MOST_FACTS]
    rows = [[_cut(text, 44) for text in cells(row)] for row in inspection.rows[:_MOST_ROWS]]
    table = with_head(rows) if rows else []
    widths = [
        max(font.getlength(text) for text in column) + 24 for column in zip(*table, strict=True)
    ]
    thumbnails = _thumbnails(bundle)
    strip = max((thumbnail.height for _, thumbnail in thumbnails), default=0)
    strip += _LINE + _MARGIN if strip else 0
    notes = [_cut(note, 130) for note in inspection.notes]
    texts = [f"{label}   {value}" for label, value in facts] + notes
    across = [font.getlength(text) for text in texts]
    across += [sum(widths), sum(thumbnail.width + _MARGIN for _, thumbnail in thumbnails)]
    lines = len(facts) + len(table) + len(notes) + 2
    width, height = int(max(across)) + 2 * _MARGIN + 60, lines * _LINE + strip + 2 * _MARGIN
    page = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(page)
    y = _facts(pen, font, facts)
    y = _strip(page, pen, font, thumbnails, y, strip)
    y = _table(pen, font, table, widths, y, width)
    for note in notes:
        pen.text((_MARGIN, y), note, _INK, font)
        y += _LINE
    return page


def _facts(
    pen: ImageDraw.ImageDraw,
    font: Font,
    facts: Sequence[tuple[str, str]],
) -> int:
    y, left = _MARGIN, int(max((font.getlength(label) for label, _ in facts), default=0)) + 16
    for label, value in facts:
        pen.text((_MARGIN, y), label, _PALE, font)
        pen.text((_MARGIN + left, y), value, _INK, font)
        y += _LINE
    return y + _LINE // 2


def _strip(
    page: Image.Image,
    pen: ImageDraw.ImageDraw,
    font: Font,
    thumbnails: Sequence[tuple[str, Image.Image]],
    y: int,
    height: int,
) -> int:
    x = _MARGIN
    for name, thumbnail in thumbnails:
        page.paste(thumbnail, (x, y))
        pen.text((x, y + height - _LINE - _MARGIN + 2), name, _PALE, font)
        x += thumbnail.width + _MARGIN
    return y + height


def _table(
    pen: ImageDraw.ImageDraw,
    font: Font,
    table: Sequence[Sequence[str]],
    widths: Sequence[float],
    y: int,
    width: int,
) -> int:
    for number, row in enumerate(table):
        if number % 2:
            pen.rectangle((_MARGIN - 6, y - 2, width - _MARGIN + 6, y + _LINE - 3), _STRIPE)
        x = float(_MARGIN)
        for text, step in zip(row, widths, strict=True):
            pen.text((x, y), text, _INK if number else _PALE, font)
            x += step
        y += _LINE
    return y + _LINE // 2


def _thumbnails(bundle: Bundle) -> list[tuple[str, Image.Image]]:
    uris = {"file": bundle.thumbnail}
    uris |= {name: entry.thumbnail for name, entry in bundle.entry_of.items()}
    decoded = ((name, from_uri(uri)) for name, uri in uris.items() if uri)
    whole = ((name, image) for name, image in decoded if image is not None)
    thumbnails = list(islice(whole, _MOST_THUMBNAILS))
    for _, image in thumbnails:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
    return thumbnails


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
