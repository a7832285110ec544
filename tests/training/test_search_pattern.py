"""No expression that a workflow brings can hold the server: in queries, edits and layers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pack.training import search_pattern
from pack.training.adapters.targets import parse_patterns
from pack.training.dataset.captions.change import (
    apply_operations,
    parse_operations,
    replace_words,
)
from pack.training.dataset.query import parse_query
from pack.training.dataset.records import Dataset, Record
from pack.training.search_pattern import SearchPattern

ENDLESS = r"(a+)(a+)(a+)(a+)(a+)[bc]\1"
TEXT = "a" * 300


def record(caption: str) -> Record:
    return Record(path=Path("a.png"), caption=caption, width=8, height=8)


USES = {
    "a query": lambda: parse_query(f'caption ~ "{ENDLESS}"')(record(TEXT)),
    "an edit": lambda: apply_operations(
        Dataset(name="x", records=(record(TEXT),)),
        parse_operations(f"regex: {ENDLESS} => x"),
    ),
    "a choice of layers": lambda: parse_patterns(ENDLESS)[0].find.found_in(TEXT),
}


@pytest.mark.parametrize("use", USES)
def test_an_endless_search_ends_with_a_sentence_in(use: str, monkeypatch):
    monkeypatch.setattr(search_pattern, "SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"takes more than 0\.2 seconds: write it without repeats"):
        USES[use]()
    assert time.monotonic() - start < 30


def test_the_time_is_that_of_all_searches_of_a_pattern(monkeypatch):
    monkeypatch.setattr(search_pattern, "SECONDS", 0.2)
    pattern = SearchPattern(ENDLESS)
    for _ in range(2):
        with pytest.raises(ValueError, match="takes more than"):
            pattern.found_in(TEXT)
    with pytest.raises(ValueError, match="takes more than"):
        pattern.found_in("b")


@pytest.mark.parametrize("text", [r"(a+)+$", r"^(\w+\s?)*$", r"(.*a){20}$", r"(x+x+)+y"])
def test_patterns_that_hold_pythons_own_search_are_answered(text: str):
    assert not SearchPattern(text).found_in("a" * 19 + "!" + "x" * 40 + "!")


def test_what_python_calls_a_pattern_is_one_and_nothing_else():
    with pytest.raises(ValueError, match="is not a search pattern"):
        parse_query('caption ~ "(a"')
    assert (
        SearchPattern(r"(?P<kind>cat|dog)s?\b").replaced("two dogs", r"a \g<kind>") == "two a dog"
    )
    assert SearchPattern("CAT", ignore_case=True).found_in("a cat")


LONG, MANY = "x" * 60_000, "a " * 30_000
INSERTED = {
    "a word": lambda: replace_words("a", LONG)(MANY, record(MANY)),
    "a word among tags": lambda: replace_words("a", LONG)("a, " * 30_000, record("")),
    "a pattern": lambda: SearchPattern("a").replaced(MANY, LONG),
    "a pattern that names itself": lambda: SearchPattern("(.*)").replaced(MANY, r"\1" * 30_000),
}


@pytest.mark.parametrize("case", INSERTED)
def test_replacements_insert_a_bounded_text(case: str):
    """Sixty thousand letters in place of each of thirty thousand would be two gigabytes."""
    with pytest.raises(ValueError, match="more than 1,048,576 characters into one text: write a"):
        INSERTED[case]()


def test_what_fits_is_inserted():
    assert SearchPattern("a").replaced("a" * 10, "x" * 100_000) == "x" * 1_000_000


def test_a_caption_of_blank_lines_is_edited_at_once():
    start = time.process_time()
    assert replace_words("a", "b")("a" + "\n" * 100_000 + "x", record("")).startswith("b\n")
    assert time.process_time() - start < 1
