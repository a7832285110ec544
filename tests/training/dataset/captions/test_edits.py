"""Operations do what they say; texts vary within their limits; statistics count captions."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pack.training.dataset.captions.change import apply_operations, parse_operations
from pack.training.dataset.captions.diff import before_after
from pack.training.dataset.captions.label import Kind, Label, label_dataset
from pack.training.dataset.captions.refusals import (
    is_unfinished,
    opens_like_boilerplate,
    problem,
    repeats_itself,
    tidied,
)
from pack.training.dataset.captions.statistics import caption_statistics, statistics_report
from pack.training.dataset.captions.tags import with_blanks
from pack.training.dataset.captions.texts import texts_of
from pack.training.dataset.captions.vary import expand
from pack.training.dataset.records import Dataset, Lines, Record, Template, Variation


def dataset(*captions: str, **fields: object) -> Dataset:
    records = [
        Record(path=Path(f"{n}.png"), caption=text, width=8, height=8, **fields)
        for n, text in enumerate(captions)
    ]
    return Dataset(name="set", records=tuple(records))


def edited(operations: str, caption: str, **fields: object) -> str:
    done = apply_operations(dataset(caption, **fields), parse_operations(operations))
    return done.records[0].caption


@pytest.mark.parametrize(
    ("operation", "before", "after"),
    [
        ("replace: tok => TOK", "tok, TOKYO and TOK2, Tok's", "TOK, TOKYO and TOK2, TOK's"),
        ("replace: red hat =>", "a red hat, blue", "a, blue"),
        ("replace: tok => TOK", "一张tok的照片", "一张TOK的照片"),
        ("replace: red hat => cap", "1girl, ;d, red hat, ..., >:)", "1girl, ;d, cap, ..., >:)"),
        ("replace: red hat =>", "1girl, ;d, red hat, ..., ^_^", "1girl, ;d, ..., ^_^"),
        ("replace: gone => x", "1girl,;d  , ...", "1girl,;d  , ..."),
        ("remove: smile", "1girl, smile, ;d, ...", "1girl, ;d, ..."),
        ("replace: a cat, a dog => pets", "with a cat, a dog, ;d", "with pets, ;d"),
        ("remove: 小明", "小明在跑步。", "在跑步。"),
        (r"regex: (\d+)girls? => \1 girls", "2girls, 1girl", "2 girls, 1 girls"),
        ("subject: woman => TOK woman", "a tall young woman sits", "TOK woman sits"),
        ("subject: woman => TOK", "two women", "two women"),
        ("subject: dog => TOK dog", "a man walks the dog", "a man walks TOK dog"),
        (
            "subject: dog => TOK dog",
            "a woman with a big dog in snow",
            "a woman with TOK dog in snow",
        ),
        ("subject: dog => TOK dog", "a boy and dog on his bed", "a boy and TOK dog on his bed"),
        ("subject: dog => TOK dog", "the man feeding his old dog", "the man feeding TOK dog"),
        ("prefix: a photo of TOK,", "a hat", "a photo of TOK, a hat"),
        ("prefix: a photo of TOK,", "a photo of TOK, a hat", "a photo of TOK, a hat"),
        ('suffix: ", 4k"', "a hat", "a hat, 4k"),
        ("remove: Red_Hat, solo", "solo, red hat, 1girl", "1girl"),
        ("remove: red hat", "A girl with a red hat, smiling.", "A girl with a, smiling."),
        ("trigger: TOK", "a hat", "TOK, a hat"),
        ("trigger: TOK", "my TOK", "my TOK"),
        ("first tags: solo, 1girl", "hat, 1girl, solo", "solo, 1girl, hat"),
        ("words: 4", "one two three four five", "one two three four"),
        ("words: 5", "one two three four, five six", "one two three four"),
        ("unique tags", "a_b, c, A B", "a_b, c"),
        ("sort tags", "b, a, C", "a, b, C"),
        ("spaces for underscores", "blue_sky, ^_^, x_x2", "blue sky, ^_^, x x2"),
        ("first sentence", "A cat. A dog.", "A cat."),
        ("one line", "a\n\nb", "a b"),
        ("no boilerplate", "This image shows A cat", "a cat"),
        ("clear", "x", ""),
        ("# prefix: x\n\nlower", "A Cat", "a cat"),
    ],
)
def test_an_operation(operation: str, before: str, after: str):
    assert edited(operation, before) == after


def test_lower_case_spares_the_placeholder():
    assert edited("lower", "A TOK and TOKYO", concept="TOK") == "a TOK and tokyo"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("shout", "operations are replace, regex"),
        ("replace: a", "write replace: old => new"),
        ("regex: ( => x", "the search pattern is wrong"),
        ("prefix:", "write something after prefix:"),
        ("words: few", "write a number of words"),
        ("lower: x", "operations are"),
    ],
)
def test_a_line_that_is_not_understood_is_a_sentence(line: str, reason: str):
    with pytest.raises(ValueError, match="The operation .* is not understood") as error:
        parse_operations(line)
    assert reason in str(error.value)


def test_changes_are_shown_before_and_after():
    old = dataset("a", "b", "c")
    new = apply_operations(old, parse_operations("replace: b => x"))
    text = before_after(old.records, new.records)
    assert text == "1 of 3 captions change\n1.png\n  - b\n  + x"


def test_a_label_puts_the_placeholder_where_it_belongs():
    label = Label(placeholder="TOK", class_word="dog", kind=Kind.OBJECT)
    done, _ = label_dataset(
        dataset("a small brown dog runs", "on a rug", "", "my TOK", "hotdog"), label, insert=True
    )
    assert [r.caption for r in done.records] == [
        "TOK dog runs",
        "TOK dog, on a rug",
        "a photo of TOK dog",
        "my TOK",
        "TOK dog, hotdog",
    ]
    assert {(r.concept, r.class_word, r.kind) for r in done.records} == {("TOK", "dog", "object")}
    plain, report = label_dataset(dataset("x"), label, insert=False)
    assert plain.records[0].caption == "x" and report.startswith("0 of 1")


def varied(caption: str, *, concept: str = "TOK", **settings: object) -> list[str]:
    variation = Variation(**{"texts": 64, **settings})
    record = dataset(caption, variation=variation, concept=concept, class_word="dog").records[0]
    assert texts_of(record, 1) == texts_of(record, 1)
    return texts_of(record, 1)


def test_without_variation_there_is_the_caption():
    assert texts_of(dataset("x").records[0], 0) == ["x"]
    assert varied("x") == ["x"]
    assert varied("x", prefix="a ", suffix=" b") == ["a x b"]


def test_tags_are_shuffled_behind_those_that_stay():
    texts = varied("TOK, a, b, c", shuffle_tags=True)
    assert len(texts) == 6 and all(text.startswith("TOK, ") for text in texts)
    marked = varied("TOK, x ||| a, b", shuffle_tags=True)
    assert set(marked) == {"TOK, x, a, b", "TOK, x, b, a"}


def test_dropout_spares_the_placeholder_and_keeps_its_share():
    texts = varied("x, a, TOK, b", tag_dropout=0.5, keep_tags=1, texts=256)
    assert set(texts) == {f"x{a}, TOK{b}" for a in ("", ", a") for b in ("", ", b")}
    record = dataset("x", variation=Variation(caption_dropout=0.25, texts=1)).records[0]
    empty = sum(texts_of(record, seed) == [""] for seed in range(2000))
    assert empty / 2000 == pytest.approx(0.25, abs=0.03)


def test_wildcards_lines_capitals_and_templates_are_drawn():
    assert set(varied("a {red|{dark|light} blue} hat", wildcards=True)) == {
        "a red hat",
        "a dark blue hat",
        "a light blue hat",
    }
    assert varied("a {red|blue} hat") == ["a {red|blue} hat"]
    assert set(varied("one\n\ntwo", lines=Lines.CHOICES)) == {"one", "two"}
    assert set(varied("A TOK Hat", capitals=1.0)) == {"a TOK hat", "A TOK hat"}
    assert set(varied("tok Hat", concept="tok", capitals=1.0)) == {"tok hat"}
    texts = varied("in snow", template=Template.OBJECT, template_share=0.5)
    assert "in snow" in texts and "a photo of TOK dog, in snow" in texts
    assert all("TOK dog" in text for text in varied("", template=Template.STYLE))
    assert expand("{}", random.Random(0)) == ""


def test_another_seed_draws_other_texts():
    record = dataset("a, b, c, d, e", variation=Variation(shuffle_tags=True, texts=3)).records[0]
    assert texts_of(record, 0) != texts_of(record, 1)


def test_phrases_in_four_of_five_captions_are_fused():
    captions = ["TOK with a red hat in snow", "a red hat on TOK", "TOK, red hat", "my red hat TOK"]
    stats = caption_statistics(dataset(*captions, "TOK outside in snow", "").records, ["TOK"])
    assert [(p.text, p.captions) for p in stats.phrases] == [("red hat", 4), ("snow", 2)]
    assert [p.text for p in stats.fused] == ["red hat"] and stats.coverage == (("TOK", 5),)
    text = statistics_report(stats)
    assert 'fused: "red hat" is in 80%' in text and "5 of 6 images have a caption" in text


def test_answers_of_models_are_tidied_and_bad_ones_named():
    assert tidied('<think>hm\n</think>\nCaption: "a cat\n on a mat"') == "a cat on a mat"
    assert tidied("<think>never ends") == ""
    assert problem(tidied("I'm sorry, but I cannot help.")) == "the model refused"
    assert problem("") == "the answer is empty" and problem("a cat") == ""
    assert is_unfinished("A cat sits. Behind it stands a")
    assert not any(
        map(is_unfinished, ("A cat sits.", 'He says "no."', "cat, mat", "a St. Bernard"))
    )
    assert repeats_itself("a red hat a red hat a red hat") and not repeats_itself(
        "a red hat and a red cap"
    )


@pytest.mark.parametrize(
    ("tag", "spoken"),
    [
        ("w_(arknights)", "w (arknights)"),
        ("d.va_(overwatch)", "d.va (overwatch)"),
        ("ch'en_(arknights)", "ch'en (arknights)"),
        ("a_b_c", "a b c"),
        *((face, face) for face in ("^_^", "o_o", "0_0", "(o)_(o)", "._.", "<|>_<|>", "||_||")),
        *((face, face) for face in (">_o", "@_@", "3_3", "=_=")),
    ],
)
def test_only_faces_keep_their_underscore(tag: str, spoken: str):
    assert with_blanks(tag) == spoken
    assert edited("spaces for underscores", f"1girl, {tag}") == f"1girl, {spoken}"


REFUSED = (
    "I apologize, but I cannot describe this image.",
    "Sorry, but I can't help with that.",
    "Sorry, I am not able to see it.",
    "I'm afraid the image is missing.",
    "I don't see an image.",
    "很抱歉，我无法查看图片。",
    "抱歉，我不能描述这张图片。",
    "作为一个AI，我看不到图片。",
    "申し訳ありませんが、画像を見られません。",
    "...", "?!", "- - -",
    "a dog and a cat and a dog and a cat and a dog and a cat and",
    "the red, the red, the red",
    "one two three four five one two three four five one two three four five",
    "一只猫在睡觉，一只猫在睡觉，一只猫在睡觉，",
    "哈哈哈哈哈哈哈哈哈哈",
)  # fmt: skip
KEPT = (
    "Sorry! is the name of a board game on a table",
    "a sign that says sorry",
    "a person who apologizes to a friend",
    "an error message on a screen: out of memory",
    "a red car, a red house, a red door",
    "very very very small",
    "a man and a woman and a child and a dog",
    "一只猫在睡觉，一只狗在睡觉",
    "哈哈哈",
    "抱着猫的女孩",
    "1girl, ;d",
)


def test_apologies_loops_and_signs_alone_are_no_captions_and_other_sentences_stay():
    assert [text for text in REFUSED if not problem(tidied(text))] == []
    assert [text for text in KEPT if problem(tidied(text))] == []


@pytest.mark.parametrize(
    "text",
    ["a dog</s>", "<s>a dog", "a dog<|im_end|>", "assistant\na dog", "Assistant: a dog <eos>"],
)
def test_a_models_own_signs_are_flagged_and_removed(text: str):
    assert opens_like_boilerplate(text)
    assert edited("no boilerplate", text).strip() == "a dog" == tidied(text)


def test_placeholders_between_angles_are_no_signs_of_a_model():
    text = "a <s0><s1> on grass, assistant of a chef"
    assert not opens_like_boilerplate(text) and edited("no boilerplate", text) == text


@pytest.mark.parametrize(
    ("operation", "after"),
    [
        ("remove: x", "TOK ||| a, red_hat, TOK ||| best"),
        ("remove: red hat, best", "TOK, x ||| a, TOK |||"),
        ("replace: x => y", "TOK, y ||| a, red_hat, TOK ||| best"),
        ("unique tags", "TOK, x ||| a, red_hat ||| best"),
        ("sort tags", "TOK, x ||| a, red_hat, TOK ||| best"),
        ("spaces for underscores", "TOK, x ||| a, red hat, TOK ||| best"),
    ],
)
def test_tags_at_kohyas_marks_are_edited_on_their_side_of_them(operation: str, after: str):
    assert edited(operation, "TOK, x ||| a, red_hat, TOK ||| best") == after


def test_a_second_mark_begins_a_suffix_that_stays():
    """As sd-scripts documents keep_tokens_separator."""
    texts = varied("TOK, x ||| a, b, c ||| best, y", shuffle_tags=True)
    assert len(texts) == 6
    for text in texts:
        tags = text.split(", ")
        assert tags[:2] == ["TOK", "x"] and tags[-2:] == ["best", "y"] and "|||" not in text
        assert sorted(tags[2:-2]) == ["a", "b", "c"]
