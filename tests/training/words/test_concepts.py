"""Concepts and captions: what stands where, and what is refused in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pack.training.dataset.records import Dataset, Record
from pack.training.ports import Mention
from pack.training.words.concepts import (
    Concept,
    check_concepts,
    class_caption,
    mentioned,
    parse_caption,
    parse_dataset,
    with_class_words,
)

TOK = Concept(placeholder="TOK", name="mycat", class_word="cat")
TIK = Concept(placeholder="TIK", initial="old house")


def dataset(*captions: str) -> Dataset:
    names = [f"picture_{i}" for i in range(1, len(captions) + 1)]
    records = [
        Record(path=Path(f"{name}.png"), caption=caption, width=64, height=64)
        for name, caption in zip(names, captions, strict=True)
    ]
    return Dataset(name="pets", records=tuple(records))


@pytest.mark.parametrize(
    ("pivot", "steps", "step"), [(0, 10, 0), (0.5, 10, 5), (0.25, 10, 2), (1, 10, 10), (0.6, 1, 1)]
)
def test_the_pivot_is_turned_into_a_step_once(pivot: float, steps: int, step: int):
    assert Concept(placeholder="TOK", pivot=pivot).pivot_step(steps) == step


def test_captions_split_into_text_and_mentions_under_the_final_names():
    parsed = parse_caption("a TOK beside TIK, no TOKYO", (TOK, TIK))
    assert parsed == ("a ", Mention("mycat"), " beside ", Mention("TIK"), ", no TOKYO")
    assert mentioned(parsed) == {"mycat", "TIK"}
    assert parse_caption("a hill", ()) == ("a hill",)
    assert parse_caption("", (TOK,)) == ()


def test_a_class_caption_has_the_class_words_in_place():
    parsed = parse_caption("a TOK beside TIK", (TOK, TIK))
    assert class_caption(parsed, (TOK, TIK)) == ("a cat beside old house",)
    assert class_caption(("",), (TOK,)) == class_caption((), (TOK,)) == ("",)


def check(concepts: Sequence[Concept], *captions: str) -> None:
    check_concepts(concepts, parse_dataset(dataset(*captions), concepts, seed=0))


def test_good_concepts_pass():
    check((TOK, TIK), "a TOK", "TIK in rain", "neither")
    check((), "", "a hill")


@pytest.mark.parametrize(
    ("concepts", "captions", "message"),
    [
        (
            (Concept(placeholder="TOK", name="a"), Concept(placeholder="TOK", name="b")),
            ("a TOK",),
            'Two concepts have the placeholder "TOK": rename one of them.',
        ),
        (
            (Concept(placeholder="TOK", name="cat"), Concept(placeholder="TIK", name="cat")),
            ("TOK TIK",),
            'Two concepts have the name "cat": rename one of them.',
        ),
        (
            (Concept(placeholder="TOK", name="TIK"), Concept(placeholder="TIK")),
            ("TOK TIK",),
            'Two concepts have the name "TIK": rename one of them.',
        ),
        ((TOK,), ("a TOK", ""), "Caption missing for picture_2.png: add picture_2.txt"),
        ((TOK, TIK), ("a TOK", "TIKI bar"), 'placeholder "TIK" is in no caption of pets'),
    ],
)
def test_concepts_that_clash_or_are_never_shown_are_refused(concepts, captions, message: str):
    with pytest.raises(ValueError) as caught:
        check(concepts, *captions)
    assert message in str(caught.value)


def test_a_short_run_trains_a_concept_for_at_least_one_step():
    assert Concept(placeholder="TOK", pivot=0.1).pivot_step(3) == 1
    assert Concept(placeholder="TOK", pivot=0.0).pivot_step(3) == 0


def test_labels_of_pictures_give_class_words_to_concepts_that_have_none():
    data = dataset("a TOK", "a TIK")
    labels = (("TOK", "dog"), ("TIK", "hut"))
    records = tuple(
        replace(record, concept=concept, class_word=word)
        for record, (concept, word) in zip(data.records, labels, strict=True)
    )
    filled = with_class_words((TOK, TIK), replace(data, records=records))
    assert [concept.class_word for concept in filled] == ["cat", "hut"]
    assert with_class_words((TIK,), data) == (TIK,)
