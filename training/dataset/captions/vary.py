"""Captions that vary while training: templates, wildcards, shuffled tags, dropout."""

from __future__ import annotations

import random
import re

from ...randomness import generator
from ..records import Lines, Template, Variation
from .placeholders import split_caption
from .tags import join_tags, split_tags
from .templates import template_caption

KEEP = "|||"


def vary(caption: str, placeholder: str, class_word: str, variation: Variation, *key: str | int):
    """All texts of one picture, each once, in the order in which they were drawn.

    The key, such as the seed and the picture, seeds the draws.
    """
    found: list[str] = []
    for number in range(variation.texts):
        draw = random.Random(generator("text", *key, number).initial_seed())
        found.append(_one(caption, placeholder, class_word, variation, draw))
    return list(dict.fromkeys(found))


def _one(
    caption: str, placeholder: str, class_word: str, variation: Variation, draw: random.Random
) -> str:
    if draw.random() < variation.caption_dropout:
        return ""
    text = caption
    if variation.lines is Lines.CHOICES and text:
        text = draw.choice([line.strip() for line in text.splitlines() if line.strip()])
    if variation.wildcards:
        text = expand(text, draw)
    if variation.shuffle_tags or variation.tag_dropout or KEEP in text:
        text = _tags(text, placeholder, variation, draw)
    if variation.template is not Template.NONE and draw.random() < variation.template_share:
        text = template_caption(variation.template, placeholder, class_word, text, draw)
    if draw.random() < variation.capitals:
        text = _recased(text, placeholder, draw)
    return f"{variation.prefix}{text}{variation.suffix}".strip()


BRACES = re.compile(r"\{([^{}]*)\}")


def expand(text: str, draw: random.Random) -> str:
    """Put one of the choices in place of each {a|b}, the inner ones first."""
    while match := BRACES.search(text):
        choice = draw.choice(match.group(1).split("|"))
        text = text[: match.start()] + choice + text[match.end() :]
    return text


def _tags(text: str, placeholder: str, variation: Variation, draw: random.Random) -> str:
    fixed_part, mark, rest = text.partition(KEEP)
    tags = split_tags(rest if mark else text)
    kept = split_tags(fixed_part) if mark else tags[: variation.keep_tags]
    loose = tags if mark else tags[variation.keep_tags :]
    loose = [
        tag
        for tag in loose
        if draw.random() >= variation.tag_dropout or _mentions(tag, placeholder)
    ]
    if variation.shuffle_tags:
        draw.shuffle(loose)
    return join_tags([*kept, *loose])


def _mentions(tag: str, placeholder: str) -> bool:
    return bool(placeholder) and any(found for found, _ in split_caption(tag, [placeholder]))


def _recased(text: str, placeholder: str, draw: random.Random) -> str:
    """All lower case or a capital first letter; the placeholder is left as it is."""
    parts = split_caption(text, [placeholder] if placeholder else [])
    words = [part if found else part.lower() for found, part in parts]
    if draw.random() < 0.5 and parts and not parts[0][0]:
        words[0] = words[0][:1].upper() + words[0][1:]
    return "".join(words)
