"""Placeholders are whole words, the longest first, and splitting loses nothing."""

from __future__ import annotations

import random
import unicodedata

import pytest

from pack.training.dataset.captions.placeholders import placeholder_pattern, split_caption


def marked(caption: str, *placeholders: str) -> str:
    """The caption with every placeholder that was found in braces."""
    parts = split_caption(caption, placeholders)
    return "".join("{" + text + "}" if found else text for found, text in parts)


@pytest.mark.parametrize(
    "caption",
    ["TOKYO", "TOK2", "my_TOK", "TOK_1", "aTOK", "2TOK", "tok", "Tok", "TOKé", "éTOK"]
    + ["TOKe\u0301", "TOK\u0301", "", "a cat", "T OK"],
)
def test_a_part_of_a_word_is_no_placeholder(caption: str):
    assert marked(caption, "TOK") == caption


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("TOK", "{TOK}"),
        ("TOK's hat", "{TOK}'s hat"),
        ("(TOK:1.2), TOK-2", "({TOK}:1.2), {TOK}-2"),
        ("TOK, TOK; TOK TOK.", "{TOK}, {TOK}; {TOK} {TOK}."),
        ("<TOK> and\nTOK\n", "<{TOK}> and\n{TOK}\n"),
        ("TOK in TOKYO", "{TOK} in TOKYO"),
        ("«TOK»—TOK", "«{TOK}»—{TOK}"),
    ],
)
def test_a_word_between_other_characters_is_a_placeholder(caption: str, expected: str):
    assert marked(caption, "TOK") == expected


def test_an_edge_that_is_no_word_character_needs_no_boundary():
    assert marked("a<s0><s1>b <s0>'s", "<s0>", "<s1>") == "a{<s0>}{<s1>}b {<s0>}'s"
    assert marked("my[cat]s, [cats]", "[cat]") == "my{[cat]}s, [cats]"
    assert marked("x$cat $cats $cat", "$cat") == "x{$cat} $cats {$cat}"


def test_the_longest_placeholder_wins():
    assert marked("cat girl, cat girls, cat", "cat", "cat girl") == "{cat girl}, {cat} girls, {cat}"
    assert marked("TOK2 TOK TOK-2", "TOK", "TOK2", "TOK-2") == "{TOK2} {TOK} {TOK-2}"


def test_characters_with_a_meaning_in_patterns_are_literal():
    assert marked("a.b axb (c)* c", "a.b", "(c)*") == "{a.b} axb {(c)*} c"


def test_underscores_and_other_scripts_are_words():
    assert marked("my_cat my_cat_2 ねこ ねこたち ёж", "my_cat", "ねこ", "ёж") == (
        "{my_cat} my_cat_2 {ねこ} {ねこ}たち {ёж}"
    )


@pytest.mark.parametrize(
    ("caption", "word"),
    [
        ("一张TOK的照片", "TOK"),
        ("TOKは草の上", "TOK"),
        ("TOK이 있는 사진", "TOK"),
        ("ภาพTOKบนหญ้า", "TOK"),
        ("小明在跑步", "小明"),
        ("写真は小明です", "小明"),
        ("ที่A ในภาพ", "ที่"),
        ("か\u30992", "か\u3099"),
    ],
)
def test_letters_of_scripts_without_blanks_are_no_part_of_a_word_beside_them(
    caption: str, word: str
):
    assert marked(caption, word) == caption.replace(word, f"{{{word}}}")


@pytest.mark.parametrize("emoji", ["\u2764\ufe0f", "1\ufe0f\u20e3", "\u2b50\ufe0e"])
def test_an_emoji_beside_a_word_is_no_part_of_it(emoji: str):
    assert marked(f"{emoji}TOK in snow", "TOK") == f"{emoji}{{TOK}} in snow"
    assert marked(f"a TOK{emoji[:1]}", "TOK") == f"a {{TOK}}{emoji[:1]}" or emoji[0] == "1"


@pytest.mark.parametrize(
    ("caption", "word"),
    [("tok\u0301", "tok"), ("कि", "क"), ("か\u3099", "か"), ("e\u0301TOK", "TOK"), ("ТОКИ", "ТОК")],
)
def test_a_mark_belongs_to_the_letter_before_it(caption: str, word: str):
    assert marked(caption, word) == caption


def test_without_placeholders_a_caption_is_one_text():
    assert split_caption("a TOK", []) == ((False, "a TOK"),)
    assert split_caption("", ["TOK"]) == ()


def test_an_empty_placeholder_is_refused():
    with pytest.raises(ValueError, match="placeholder is empty"):
        placeholder_pattern(["TOK", ""])


def reference_split(caption: str, placeholders: list[str]) -> list[tuple[bool, str]]:
    """The same rule character by character, without a regular expression."""

    def fits(word: str, at: int) -> bool:
        if not caption.startswith(word, at):
            return False
        end = at + len(word)
        left = at > 0 and is_spaced(caption[at - 1]) and is_spaced(word[0])
        behind = caption[end : end + 1]
        mark = unicodedata.category(behind or " ") in ("Mn", "Mc") and is_word(word[-1])
        right = is_spaced(behind or " ") and is_spaced(word[-1]) or mark
        return not left and not right

    parts: list[tuple[bool, str]] = []
    at = 0
    while at < len(caption):
        found = max((word for word in placeholders if fits(word, at)), key=len, default=None)
        if found is None and parts and not parts[-1][0]:
            parts[-1] = (False, parts[-1][1] + caption[at])
        else:
            parts.append((found is not None, found or caption[at]))
        at += len(found or "x")
    return parts


def is_word(character: str) -> bool:
    mark = unicodedata.category(character) in ("Mn", "Mc") and character not in "\ufe0e\ufe0f"
    return character.isalnum() or character == "_" or mark


def is_spaced(character: str) -> bool:
    """Whether it is a part of a word in a script with blanks between words."""
    unspaced = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "MYANMAR", "KHMER")
    return is_word(character) and not unicodedata.name(character, "").startswith(unspaced)


def test_random_captions_split_as_the_rule_says_and_lose_nothing():
    draw = random.Random(0)
    pieces = ["TOK", "TOK2", "cat", "cat girl", "<s0>", "[cat]", "_", "é", "\u0301", "2", " "]
    pieces += ["(", ":1.2)", "-", "'s", "YO", ",", "\n", "語", "girl"]
    words = ["TOK", "TOK2", "cat", "cat girl", "<s0>", "[cat]", "é", "TOK-2"]
    for _ in range(3000):
        caption = "".join(draw.choices(pieces, k=draw.randrange(12)))
        chosen = draw.sample(words, draw.randrange(1, 6))
        parts = split_caption(caption, chosen)
        assert "".join(text for _, text in parts) == caption
        assert list(parts) == reference_split(caption, chosen)
