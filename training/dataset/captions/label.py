"""The concept that pictures show, as a label and as a placeholder in their captions."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum

from ..records import Dataset, Record, Template
from .diff import before_after
from .placeholders import placeholder_pattern
from .templates import first_template


class Kind(str, Enum):
    """The kind of a concept, which decides on the sentences for it."""

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
"""Words that end a noun phrase: what follows is about another thing."""
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
            raise ValueError("The label has no placeholder: enter the word for the concept.")


def label_dataset(dataset: Dataset, label: Label, *, insert: bool) -> tuple[Dataset, str]:
    """The labelled dataset, and a report of its captions before and after."""

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
    """A caption with the placeholder, put in place of the class word or else in front.

    A caption that has it already is returned unchanged, and an empty one becomes a sentence.
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
    """Replace the first phrase of `noun` by `subject`; returns the text and the count (0 or 1).

    The article and up to three adjectives before the noun are replaced too: "a tall red-haired
    woman sits" becomes "TOK woman sits". Text after the noun stays, as do earlier nouns: "a man
    walks the dog" becomes "a man walks TOK dog".
    """
    between = rf"(?:(?!(?:{DETERMINERS}|{LINKS})\b)[\w-]+\s+){{0,3}}?"
    phrase = rf"(?:\b(?:{DETERMINERS})\s+{between})?\b{re.escape(noun)}\b"
    pattern = re.compile(phrase, re.IGNORECASE)
    return pattern.subn(lambda match: subject, caption, count=1)
