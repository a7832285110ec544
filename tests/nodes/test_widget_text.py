"""Lists that are written as text into a widget."""

from __future__ import annotations

import pytest

from pack.nodes.widget_text import lines, numbers, seed_numbers


def test_seeds_are_numbers_and_ranges():
    assert seed_numbers("3, 1 5-7") == [3, 1, 5, 6, 7]
    assert numbers("0, 0.5 1", "strengths") == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("text", ["", "-1", "4-2", "1.5", "0-99999999999", "99999999999999999999"])
def test_seeds_that_are_none_are_refused(text: str):
    with pytest.raises(ValueError, match="seed"):
        seed_numbers(text)


@pytest.mark.parametrize("text", ["", " , ", "0.5 x"])
def test_numbers_that_are_none_are_refused_by_the_name_of_their_field(text: str):
    with pytest.raises(ValueError, match="strengths is "):
        numbers(text, "strengths")


def test_lines_are_those_that_hold_anything():
    assert lines(" a dog \n\n  \na cat") == ["a dog", "a cat"]
