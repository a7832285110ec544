"""Captions that vary while training: templates, wildcards, shuffled tags, dropout."""

from __future__ import annotations

import random
import re

from ...randomness import generator
from ..records import Lines, Template, Variation
from .placeholders import split_caption
from .tags import MARK, join_tags, split_tags
from .templates import template_caption


def vary(caption: str, placeholder: str, class_word: str, variation: Variation, *key: str | int):
    """All distinct texts of one picture in the order in which they are drawn, seeded by the key."""
    texts: list[str] = []
    for number in range(variation.texts):
        rng = random.Random(generator("text", *key, number).initial_seed())
        texts.append(_varied(caption, placeholder, class_word, variation, rng))
    return list(dict.fromkeys(texts))


def _varied(
    caption: str, placeholder: str, class_word: str, variation: Variation, rng: random.Random
) -> str:
    if rng.random() < variation.caption_dropout:
        return ""
    text = caption
    if variation.lines is Lines.CHOICES and text:
        text = rng.choice([line.strip() for line in text.splitlines() if line.strip()])
    if variation.wildcards:
        text = expand(text, rng)
    if variation.shuffle_tags or variation.tag_dropout or MARK in text:
        text = _tags(text, placeholder, variation, rng)
    if variation.template is not Template.NONE and rng.random() < variation.template_share:
        text = template_caption(variation.template, placeholder, class_word, text, rng)
    if rng.random() < variation.capitals:
        text = _recased(text, placeholder, rng)
    return f"{variation.prefix}{text}{variation.suffix}".strip()


BRACES = re.compile(r"\{([^{}]*)\}")


def expand(text: str, rng: random.Random) -> str:
    """Replace each {a|b} by one of its choices, the inner ones first."""
    while match := BRACES.search(text):
        choice = rng.choice(match.group(1).split("|"))
        text = text[: match.start()] + choice + text[match.end() :]
    return text


def _tags(text: str, placeholder: str, variation: Variation, rng: random.Random) -> str:
    # As sd-scripts reads it: a second mark begins a suffix, which stays in place too.
    before, mark, after = text.partition(MARK)
    after, _, end = after.partition(MARK)
    tags = split_tags(after if mark else text)
    kept = split_tags(before) if mark else tags[: variation.keep_tags]
    loose = tags if mark else tags[variation.keep_tags :]
    loose = [
        tag for tag in loose if rng.random() >= variation.tag_dropout or _mentions(tag, placeholder)
    ]
    if variation.shuffle_tags:
        rng.shuffle(loose)
    return join_tags([*kept, *loose, *split_tags(end)])


def _mentions(tag: str, placeholder: str) -> bool:
    return bool(placeholder) and any(
        is_placeholder for is_placeholder, _ in split_caption(tag, [placeholder])
    )


def _recased(text: str, placeholder: str, rng: random.Random) -> str:
    """In lower case or with a capital first letter, except for the placeholder."""
    parts = split_caption(text, [placeholder] if placeholder else [])
    words = [part if is_placeholder else part.lower() for is_placeholder, part in parts]
    if rng.random() < 0.5 and parts and not parts[0][0]:
        words[0] = words[0][:1].upper() + words[0][1:]
    return "".join(words)
