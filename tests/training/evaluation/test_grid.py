"""Grids of pictures: every picture in its place unchanged, every label beside it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from PIL import Image, ImageChops

from pack.training.evaluation.grid import (
    MAX_LINES,
    MIN_COLUMN,
    GridLayout,
    _measure,
    grid_layout,
    labelled_grid,
    wrap,
)

ROWS = ["a photo of a dog\nseed 1", "a photo of a dog on a beach in the evening\nseed 1"]
COLUMNS = ["without bundle", "bundle 1\nstrength 0.5", "bundle 1\nstrength 1"]


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    """A picture unlike any other."""
    data = bytes(
        (index * (2 * seed + 3) + seed * 7) % 251 for index in range(size[0] * size[1] * 3)
    )
    return Image.frombytes("RGB", size, data)


def pictures(size: tuple[int, int]) -> list[list[Image.Image]]:
    return [
        [noise(row * len(COLUMNS) + column, size) for column in range(len(COLUMNS))]
        for row in range(len(ROWS))
    ]


def at(grid: Image.Image, layout: GridLayout, row: int, column: int) -> Image.Image:
    left, top = layout.corner(row, column)
    return grid.crop((left, top, left + layout.cell[0], top + layout.cell[1]))


def ink(grid: Image.Image, box: Sequence[int]) -> bool:
    """Whether anything is drawn in a part of the grid."""
    return grid.crop(tuple(box)).convert("L").getextrema()[0] < 128


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (300, 200)])
def test_each_picture_is_in_its_place_unchanged(size: tuple[int, int]):
    cells = pictures(size)
    grid = labelled_grid(cells, ROWS, COLUMNS)
    layout = grid_layout(ROWS, COLUMNS, size)
    assert grid.size == layout.size
    for row, line in enumerate(cells):
        for column, picture in enumerate(line):
            assert at(grid, layout, row, column).tobytes() == picture.tobytes()


def test_each_row_and_column_has_its_label():
    white = [[Image.new("RGB", (64, 64), "white")] * len(COLUMNS)] * len(ROWS)
    grid = labelled_grid(white, ROWS, COLUMNS, "20 steps")
    layout = grid_layout(ROWS, COLUMNS, (64, 64), "20 steps")
    left, top = layout.origin
    assert ink(grid, (0, 0, grid.width, layout.line + 8))
    for column in range(len(COLUMNS)):
        x = layout.corner(0, column)[0]
        assert ink(grid, (x, layout.line + 8, x + layout.column, top))
    for row in range(len(ROWS)):
        y = layout.corner(row, 0)[1]
        assert ink(grid, (0, y, left, y + layout.row))
    assert not ink(grid, (left, top, grid.width, grid.height))


def test_labels_never_reach_into_a_picture():
    """Only white is around the cells: with other labels the same cells stay as they are."""
    long = ["word " * 200, "a" * 500]
    cells = pictures((64, 64))
    grid = labelled_grid(cells, long, ["b" * 300, "c " * 300, ""], "d" * 900)
    layout = grid_layout(long, ["b" * 300, "c " * 300, ""], (64, 64), "d" * 900)
    for row, line in enumerate(cells):
        for column, picture in enumerate(line):
            assert ImageChops.difference(at(grid, layout, row, column), picture).getbbox() is None


def test_lines_fit_their_width_and_lose_no_word():
    text = "a rather long prompt about embedding:some_character_with_a_name on a beach"
    lines = wrap(text, 13, 150)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(_measure(13, line)(line) <= 150 for line in lines)


def test_a_line_break_in_a_label_stays_a_line_break():
    assert wrap("a dog\nseed 3", 13, 500) == ["a dog", "seed 3"]


def test_a_label_without_end_is_cut_and_says_so():
    lines = wrap("word " * 500, 13, 100)
    assert len(lines) == MAX_LINES
    assert lines[-1].endswith("...")


@pytest.mark.parametrize("label", ["", "キツネの写真", "Füchsin à l'été", "🦊"])
def test_a_label_of_any_alphabet_makes_a_grid(label: str):
    picture = Image.new("RGB", (32, 32), "red")
    assert labelled_grid([[picture]], [label], [label]).getpixel(
        grid_layout([label], [label], (32, 32)).corner(0, 0)
    ) == (255, 0, 0)


def test_small_pictures_get_room_for_their_labels():
    layout = grid_layout(ROWS, COLUMNS, (16, 16))
    assert layout.column >= MIN_COLUMN
    assert layout.row >= 3 * layout.line


def test_missing_and_uneven_pictures_are_refused():
    with pytest.raises(ValueError, match="an image for each row and column, all of one size"):
        labelled_grid([[Image.new("RGB", (8, 8))]], ["a"], ["b", "c"])
    with pytest.raises(ValueError, match="all of one size"):
        labelled_grid([[Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))]], ["a"], ["b", "c"])
    with pytest.raises(ValueError, match="at least one row and one column"):
        grid_layout([], ["a"], (8, 8))
