"""Pictures in a grid with a label for each row and column."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MARGIN = 8
MIN_COLUMN = 120
"""Narrowest column: small pictures get room for their labels."""
ROW_LABEL = 240
"""Widest line of a row's label."""
MAX_LINES = 8
# For labels that Pillow's own font cannot draw; the first that the system has is taken.
WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "msyh.ttc",
    "Arial Unicode.ttf",
    "wqy-microhei.ttc",
    "DejaVuSans.ttf",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GridLayout:
    """The layout of a grid; sizes and offsets in pixels."""

    cell: tuple[int, int]
    title: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    columns: tuple[tuple[str, ...], ...]
    font_size: int
    label_width: int

    @property
    def line(self) -> int:
        """Height of a line of text."""
        return round(self.font_size * 1.35)

    @property
    def column(self) -> int:
        """Distance from one column to the next."""
        return max(self.cell[0], MIN_COLUMN) + MARGIN

    @property
    def row(self) -> int:
        """Distance from one row to the next: the height of a picture or of the longest label."""
        return max(self.cell[1], max(map(len, self.rows)) * self.line) + MARGIN

    @property
    def origin(self) -> tuple[int, int]:
        """Left and top of the first cell."""
        lines = len(self.title) + max(map(len, self.columns))
        return self.label_width + 2 * MARGIN, lines * self.line + 2 * MARGIN

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole grid."""
        left, top = self.origin
        return left + len(self.columns) * self.column, top + len(self.rows) * self.row

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Left and top of a picture."""
        left, top = self.origin
        return left + column * self.column, top + row * self.row


def grid_layout(
    rows: Sequence[str], columns: Sequence[str], cell: tuple[int, int], title: str = ""
) -> GridLayout:
    """Break the labels into lines that fit around cells of a size; ValueError without cells."""
    if not rows or not columns:
        raise ValueError("A grid needs at least one row and one column.")
    font_size = min(max(cell[0] // 20, 13), 28)
    width = max(cell[0], MIN_COLUMN)
    wrapped = [tuple(wrap(label, font_size, max(ROW_LABEL, width // 2))) for label in rows]
    label_width = max(
        (round(_measure(font_size, line)(line)) for label in wrapped for line in label), default=0
    )
    total = label_width + 2 * MARGIN + len(columns) * (width + MARGIN)
    return GridLayout(
        cell=cell,
        title=tuple(wrap(title, font_size, total - 2 * MARGIN)),
        rows=tuple(wrapped),
        columns=tuple(tuple(wrap(label, font_size, width)) for label in columns),
        font_size=font_size,
        label_width=label_width,
    )


def labelled_grid(
    pictures: Sequence[Sequence[Image.Image]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
) -> Image.Image:
    """Paste pictures[row][column], all of one size, unchanged between their labels."""
    sizes = {picture.size for line in pictures for picture in line}
    if len(sizes) != 1 or [len(line) for line in pictures] != [len(columns)] * len(rows):
        raise ValueError("A grid needs an image for each row and column, all of one size.")
    layout = grid_layout(rows, columns, sizes.pop(), title)
    canvas = Image.new("RGB", layout.size, "white")
    _draw_labels(ImageDraw.Draw(canvas), layout)
    for row, line in enumerate(pictures):
        for column, picture in enumerate(line):
            canvas.paste(picture, layout.corner(row, column))
    return canvas


def wrap(text: str, font_size: int, width: int) -> list[str]:
    """Break a text into at most MAX_LINES lines of `width` pixels; longer words are cut."""
    measure = _measure(font_size, text)
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            joined = f"{line} {word}".strip()
            if line and measure(joined) > width:
                lines.append(line)
                joined = word
            *full, line = _cut(joined, measure, width)
            lines += full
        lines.append(line)
    if len(lines) > MAX_LINES:
        lines[MAX_LINES - 1 :] = [lines[MAX_LINES - 1][:-3] + "..."]
    return lines


def _cut(word: str, measure: Callable[[str], float], width: int) -> list[str]:
    """Split a word into pieces that fit."""
    pieces: list[str] = []
    while measure(word) > width and len(word) > 1:
        end = _fitting(word, measure, width)
        pieces.append(word[:end])
        word = word[end:]
    return [*pieces, word]


def _fitting(word: str, measure: Callable[[str], float], width: int) -> int:
    """The number of a word's characters that fit, at least one."""
    ends = range(1, len(word))
    return max(bisect_right(ends, width, key=lambda end: measure(word[:end])), 1)


def _draw_labels(draw: ImageDraw.ImageDraw, layout: GridLayout) -> None:
    left, top = layout.origin
    _write(draw, layout, (MARGIN, MARGIN), layout.title)
    for number, lines in enumerate(layout.columns):
        # Column labels stand on the pictures, whatever their number of lines.
        y = top - MARGIN // 2 - len(lines) * layout.line
        _write(draw, layout, (left + number * layout.column, y), lines)
    for number, lines in enumerate(layout.rows):
        _write(draw, layout, (MARGIN, top + number * layout.row), lines)


def _write(
    draw: ImageDraw.ImageDraw, layout: GridLayout, corner: tuple[int, int], lines: Sequence[str]
) -> None:
    left, top = corner
    for number, line in enumerate(lines):
        font = _font(layout.font_size, line.isascii())
        drawn = _drawable(line, font)
        draw.text((left, top + number * layout.line), drawn, fill="black", font=font)


def _measure(font_size: int, text: str) -> Callable[[str], float]:
    """Width in pixels of any part of a text."""
    font = _font(font_size, text.isascii())
    return lambda part: font.getlength(_drawable(part, font))


def _drawable(text: str, font: Font) -> str:
    """Remove characters that a bitmap font cannot draw."""
    if isinstance(font, ImageFont.ImageFont):
        return text.encode("latin-1", "replace").decode("latin-1")
    return text


@lru_cache(maxsize=32)
def _font(size: int, ascii_only: bool) -> Font:
    """Pillow's own font, or one of the system's for other alphabets."""
    for name in () if ascii_only else WIDE_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one bitmap font of one size.
        return ImageFont.load_default()
