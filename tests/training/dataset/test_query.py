"""Queries pick what they say, and what is not understood is a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from pack.training.dataset.merge import merge_datasets, split_dataset
from pack.training.dataset.records import Box, Dataset, Record


def record(name: str, width: int, height: int, caption: str = "", **fields: object) -> Record:
    return Record(path=Path(name), caption=caption, width=width, height=height, **fields)


DATASET = Dataset(
    name="set",
    records=(
        record("a.png", 800, 600, "red hat, blue_sky", boxes=(Box(0, 0, 9, 9),), flags=("blur",)),
        record("b.png", 500, 900, "a Red house", concept="TOK", mask=Path("m.png")),
        record("c.png", 300, 300, ""),
    ),
)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", "abc"),
        ("short >= 500", "ab"),
        ("faces == 1 and short>=600", "a"),
        ('caption ~ "red" and not caption ~ "hat"', "b"),
        ("not (width > 400 or height > 400)", "c"),
        ('tag == "Blue Sky"', "a"),
        ("tag != 'blue sky'", "bc"),
        ('flag == "blur" or concept = TOK', "ab"),
        ("caption", "ab"),
        ("mask", "b"),
        ("aspect < 1", "b"),
        ("words == 0 or tags == 2", "ac"),
        ("name == A.PNG", "a"),
    ],
)
def test_a_query_picks(query: str, names: str):
    kept, dropped = split_dataset(DATASET, query)
    assert "".join(r.name[0] for r in kept.records) == names
    assert len(kept.records) + len(dropped.records) == 3


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("depth > 3", '"depth" is not one of width, height'),
        ("short >", "a value is missing after >"),
        ("short > big", '"big" is not a number'),
        ("(short > 3", "a bracket is not closed"),
        ("short > 3 short", '"short" is not expected there'),
        ("and", '"and" is not one of'),
        ('caption ~ "("', "is not a search pattern"),
        ('caption ~ "x', "close its quotes"),
    ],
)
def test_what_is_not_understood_is_a_sentence(query: str, reason: str):
    with pytest.raises(ValueError, match="The query .* is not understood") as error:
        kept, _ = split_dataset(DATASET, query)
    assert reason in str(error.value)


def test_merged_datasets_keep_all_and_tell_their_pictures_apart():
    other = Dataset(name="set", records=DATASET.records[:1], skipped=("x",))
    both = merge_datasets([DATASET, other])
    assert both.name == "set (1) + set (2)" and both.skipped == ("x",)
    assert [r.name for r in both.records] == [
        "set (1)/a.png",
        "set (1)/b.png",
        "set (1)/c.png",
        "set (2)/a.png",
    ]
    assert merge_datasets([DATASET]) is DATASET
