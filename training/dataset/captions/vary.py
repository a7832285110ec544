"""Captions that vary while training: templates, wildcards, shuffled tags, dropout."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from enum import Enum

from ...randomness import generator
from .placeholders import split_caption
from .tags import join_tags, split_tags
from .templates import Template, template_caption


class Lines(str, Enum):
    """What the lines of a caption are."""

    ONE_TEXT = "one text"
    CHOICES = "a choice"
    """Each line is a caption of its own and one of them is drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """How the text of a picture changes from one time that it is shown to the next."""

    texts: int = 8
    """Captions drawn for each picture before the run; they are all encoded once."""
    prefix: str = ""
    suffix: str = ""
    shuffle_tags: bool = False
    keep_tags: int = 1
    """Tags at the beginning that stay in place; all before a "|||" do where there is one."""
    tag_dropout: float = 0.0
    """Share of the tags that are left out; kept tags and placeholders never are."""
    caption_dropout: float = 0.0
    """Share of the texts that are empty."""
    wildcards: bool = False
    """Draw one of a|b|c in braces."""
    lines: Lines = Lines.ONE_TEXT
    capitals: float = 0.0
    """Share of the texts with other capitals: all lower case, or the first letter large."""
    template: Template = Template.NONE
    """Sentences put around, or in place of, the caption."""
    template_share: float = 1.0
    """Share of the texts that use the template."""

    def __post_init__(self) -> None:
        if self.texts < 1:
            raise ValueError(f"texts is {self.texts}: use at least 1.")
        if self.keep_tags < 0:
            raise ValueError(f"keep_tags is {self.keep_tags}: use 0 or more.")
        for name in ("tag_dropout", "caption_dropout", "capitals", "template_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: use 0 to 1.")


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
