"""The table of a bundle as a picture, and pictures as small as a file's header can bear."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from .bundle import Bundle
from .inspection import HEAD, Inspection, cells

THUMBNAIL = 256
"""Longest side of a picture in a header, in pixels."""
_SIZE, _LINE, _MARGIN, _MOST = 15, 22, 16, 2_000_000
_INK, _PALE, _PAPER, _STRIPE = (32, 34, 38), (110, 114, 122), (252, 252, 252), (240, 242, 245)

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def data_uri(picture: Image.Image) -> str:
    """A JPEG of at most THUMBNAIL pixels a side as a data URI."""
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    small.save(written, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode('ascii')}"


def from_uri(uri: str) -> Image.Image | None:
    """The picture of a data URI, None where it is none or is much larger than a thumbnail."""
    try:
        data = base64.b64decode(uri.partition(",")[2], validate=True)
        opened: Image.Image = Image.open(io.BytesIO(data))
        return opened.convert("RGB") if opened.width * opened.height <= _MOST else None
    # A picture out of a stranger's file can be damaged in any way.
    except Exception:
        return None


def draw(found: Inspection, bundle: Bundle) -> Image.Image:
    """Facts, thumbnails and the table, as wide as they need to be."""
    font = ImageFont.load_default(_SIZE)
    facts = [(label, _cut(value, 110)) for label, value in found.facts][:40]
    table = [list(HEAD), *([_cut(text, 44) for text in cells(row)] for row in found.rows[:200])]
    used = [n for n in range(len(HEAD)) if any(row[n] for row in table[1:])]
    table = [[row[n] for n in used] for row in table] if found.rows else []
    widths = [
        max(font.getlength(text) for text in column) + 24 for column in zip(*table, strict=True)
    ]
    pictures = _thumbnails(bundle)
    strip = max((picture.height for _, picture in pictures), default=0)
    strip += _LINE + _MARGIN if strip else 0
    notes = [_cut(note, 130) for note in found.notes]
    texts = [f"{label}   {value}" for label, value in facts] + notes
    across = [font.getlength(text) for text in texts] + [
        sum(widths[: len(table[0])] if table else [])
    ]
    across.append(sum(picture.width + _MARGIN for _, picture in pictures))
    lines = len(facts) + len(table) + len(notes) + 2
    width, height = int(max(across)) + 2 * _MARGIN + 60, lines * _LINE + strip + 2 * _MARGIN
    page = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(page)
    y = _facts(pen, font, facts)
    y = _strip(page, pen, font, pictures, y, strip)
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
    pictures: Sequence[tuple[str, Image.Image]],
    y: int,
    height: int,
) -> int:
    x = _MARGIN
    for name, picture in pictures:
        page.paste(picture, (x, y))
        pen.text((x, y + height - _LINE - _MARGIN + 2), name, _PALE, font)
        x += picture.width + _MARGIN
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
    found = [(name, from_uri(uri)) for name, uri in uris.items() if uri]
    pictures = [(name, picture) for name, picture in found if picture is not None][:8]
    for _, picture in pictures:
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return pictures


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
