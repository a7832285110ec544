"""Edits by hand are kept, passed on, undone one by one, and never lost to a change elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pack.training.dataset.records import Dataset, Record
from pack.training.dataset.writing.review import Conflict, Review, dataset_id


def dataset(*captions: str) -> Dataset:
    records = [
        Record(path=Path(f"/set/{n}.png"), caption=text, width=8, height=8)
        for n, text in enumerate(captions)
    ]
    return Dataset(name="set", records=tuple(records))


DATA = dataset("a red TOK", "TOKYO, red", "blue")


def captions(review: Review, data: Dataset = DATA) -> list[str]:
    return [record.caption for record in review.apply(data).records]


def change(review: Review, number: int, **values: object) -> None:
    record = DATA.records[number]
    review.change(record, review.tag(record), values)


def test_edits_are_folded_from_the_journal_and_undone(tmp_path: Path):
    review = Review(tmp_path / "r.jsonl")
    change(review, 0, caption="mine")
    change(review, 2, enabled=False)
    assert review.replace_all(DATA.records, "red", "green") == 1
    assert captions(review) == ["mine", "TOKYO, green"]
    again = Review(tmp_path / "r.jsonl")
    assert captions(again) == captions(review) and again.revision == 3
    assert again.apply(DATA).records[0].caption_source == "human"
    for expected in (["mine", "TOKYO, red"], ["mine", "TOKYO, red", "blue"], None):
        assert again.undo()
        assert captions(again) == (expected or [r.caption for r in DATA.records])
    assert not again.undo() and captions(Review(tmp_path / "r.jsonl")) == captions(again)


def test_a_replacement_is_shown_before_and_spares_longer_words(tmp_path: Path):
    review = Review(tmp_path / "r.jsonl")
    found = review.replaced(DATA.records, "tok", "cat")
    assert found == {"0.png": ("a red TOK", "a red cat")}
    assert review.revision == 0 and not (tmp_path / "r.jsonl").exists()
    with pytest.raises(ValueError, match="Write what to find"):
        review.replaced(DATA.records, " ", "x")


def test_a_replacement_is_to_the_letter_and_may_have_lines(tmp_path: Path):
    review = Review(tmp_path / "r.jsonl")
    data = dataset("a => b", "a TOK")
    assert review.replaced(data.records, "a => b", "c\nd") == {"0.png": ("a => b", "c\nd")}
    assert review.replaced(data.records, "TOK\nlower", "x") == {}


def test_a_caption_that_a_replacement_makes_too_long_is_refused(tmp_path: Path):
    long = dataset("a " * 10)
    with pytest.raises(ValueError, match=r"0\.png would have 1\d\d,\d{3} characters, and 65,536"):
        Review(tmp_path / "r.jsonl").replace_all(long.records, "a", "x" * 10_000 + "y")
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize(
    ("caption", "replaced"),
    [
        ("1girl, ;d, red hat, ...", "1girl, ;d, blue hat, ..."),
        ("red hat,:d,  (o_o)", "blue hat,:d,  (o_o)"),
        ("^_^, red hat ||| red hat, >.<", "^_^, blue hat ||| blue hat, >.<"),
    ],
)
def test_a_replacement_leaves_its_neighbours_to_the_letter(tmp_path, caption, replaced):
    record = replace(DATA.records[0], caption=caption)
    found = Review(tmp_path / "r.jsonl").replaced([record], "red hat", "blue hat")
    assert found == {record.name: (caption, replaced)}


def test_a_change_under_the_hands_of_another_is_a_conflict(tmp_path: Path):
    review = Review(tmp_path / "r.jsonl")
    record = DATA.records[0]
    tag = review.tag(record, "file as it was")
    with pytest.raises(Conflict, match=r"0\.png was changed meanwhile"):
        review.change(record, tag, {"caption": "x"}, "file as it is")
    change(review, 0, caption="first")
    with pytest.raises(Conflict):
        review.change(record, tag, {"caption": "second"}, "file as it was")
    assert captions(review)[0] == "first"


def test_an_edit_over_a_caption_that_changed_later_is_flagged(tmp_path: Path):
    review = Review(tmp_path / "r.jsonl")
    change(review, 0, caption="mine")
    later = replace(DATA, records=(replace(DATA.records[0], caption="new file"),))
    (record,) = review.apply(later).records
    assert (record.caption, record.flags) == ("mine", ("conflict",))
    assert review.apply(DATA).records[0].flags == ()


def test_a_dataset_is_known_again_by_its_folders():
    assert dataset_id(DATA) == dataset_id(dataset("other", "captions"))
    moved = replace(DATA.records[0], path=Path("/elsewhere/0.png"))
    assert dataset_id(replace(DATA, records=(moved,))) != dataset_id(DATA)
