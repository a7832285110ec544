"""Which concept the pictures of a dataset show, and its placeholder in their captions."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum

from ..records import Dataset, Record, Template
from .diff import before_after
from .placeholders import placeholder_pattern
from .templates import first_template


class Kind(str, Enum):
    """What a concept is, as far as captions are concerned."""

    OBJECT = "object"
    PERSON = "person"
    CHARACTER = "character"
    STYLE = "style"


DETERMINERS = "a|an|the|one|this|that|my|your|his|her|its|our|their"
LINKS = (
    "and|or|with|without|of|in|on|at|by|for|to|from|near|next|beside|behind|under|over|above|below|"
    "before|against|around|through|inside|outside|into|onto|as|like|while|who|which|"
    "is|are|was|were|has|have|holds?|holding|walks?|walking|rides?|riding|hugs?|hugging|wears?|wearing"
)
"""Words after which another thing is spoken of than before"""
TEMPLATES = {
    Kind.OBJECT: Template.OBJECT,
    Kind.PERSON: Template.PERSON,
    Kind.CHARACTER: Template.PERSON,
    Kind.STYLE: Template.STYLE,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """The concept that pictures show."""

    placeholder: str
    class_word: str = ""
    kind: Kind = Kind.OBJECT

    def __post_init__(self) -> None:
        if not self.placeholder:
            raise ValueError("The label has no placeholder: give the word for the concept.")


def label_dataset(dataset: Dataset, label: Label, *, insert: bool) -> tuple[Dataset, str]:
    """The labelled dataset, and what happened to its captions, before and after."""

    def change(record: Record) -> Record:
        caption = named_caption(record.caption, label) if insert else record.caption
        source = record.caption_source or ("template" if caption else "")
        return replace(
            record,
            caption=caption,
            caption_source=source,
            concept=label.placeholder,
            class_word=label.class_word,
            kind=label.kind.value,
        )

    labelled = dataset.with_records(change)
    return labelled, before_after(dataset.records, labelled.records)


def named_caption(caption: str, label: Label) -> str:
    """A caption that has the placeholder: as it is, in the class word's place, or put before.

    An empty caption becomes the plainest sentence of the kind.
    """
    if not caption.strip():
        return first_template(TEMPLATES[label.kind], label.placeholder, label.class_word)
    if placeholder_pattern([label.placeholder]).search(caption):
        return caption
    subject = f"{label.placeholder} {label.class_word}".strip()
    if label.class_word:
        named, count = rename_subject(caption, label.class_word, subject)
        if count:
            return named
    return f"{subject}, {caption}"


def rename_subject(caption: str, noun: str, subject: str) -> tuple[str, int]:
    """Put `subject` for the first phrase of `noun`; return the text and how often (0 or 1).

    The article before the noun and up to three adjectives go: "a tall red-haired woman sits"
    becomes "TOK woman sits". What follows the noun stays, and so does whoever came before: "a man
    walks the dog" becomes "a man walks TOK dog".
    """
    between = rf"(?:(?!(?:{DETERMINERS}|{LINKS})\b)[\w-]+\s+){{0,3}}?"
    phrase = rf"(?:\b(?:{DETERMINERS})\s+{between})?\b{re.escape(noun)}\b"
    pattern = re.compile(phrase, re.IGNORECASE)
    return pattern.subn(lambda match: subject, caption, count=1)
