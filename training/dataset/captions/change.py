"""Operations on captions, one per line: `replace: old => new`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ...search_pattern import SearchPattern, bounded
from ..records import Dataset, Record
from .label import Kind, Label, named_caption, rename_subject
from .placeholders import split_caption, whole_word
from .refusals import without_signs
from .tags import by_section, join_tags, looks_like_tags, same_tag, split_tags, with_blanks

Rewrite = Callable[[str, Record], str]
ARROW = "=>"


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of operations, and what it does to a caption."""

    line: str
    edit: Rewrite


def parse_operations(text: str) -> list[Operation]:
    """The operations in a text; the ValueError names the first wrong line.

    Empty lines and lines that begin with # are ignored.
    """
    lines = [line.strip() for line in text.splitlines()]
    return [_parse(line) for line in lines if line and not line.startswith("#")]


def apply_operations(dataset: Dataset, operations: Sequence[Operation]) -> Dataset:
    """Apply every operation in turn to every caption."""

    def change(record: Record) -> Record:
        caption = record.caption
        for operation in operations:
            caption = operation.edit(caption, record)
        return replace(record, caption=caption.strip())

    return dataset.with_records(change)


def _parse(line: str) -> Operation:
    name, _, value = line.partition(":")
    name = " ".join(name.lower().split())
    value = value.strip()
    if name in PAIRS:
        old, arrow, new = value.partition(ARROW)
        if not arrow or not old.strip():
            raise _error(line, f"write {name}: old {ARROW} new")
        try:
            return Operation(line, PAIRS[name](old.strip(), new.strip()))
        except re.error as bad:
            raise _error(line, f"the search pattern is wrong ({bad})") from bad
    if name in VALUES:
        if not value.strip():
            raise _error(line, f"write something after {name}:")
        return Operation(line, VALUES[name](value, line))
    if name in PLAIN and not value:
        return Operation(line, PLAIN[name])
    known = ", ".join([*PAIRS, *VALUES, *PLAIN])
    raise _error(line, f"operations are {known}")


def _error(line: str, reason: str) -> ValueError:
    return ValueError(f'The operation "{line}" is not understood: {reason}.')


def replace_words(old: str, new: str) -> Rewrite:
    """Replace every `old` that is a whole word, ignoring case."""
    pattern = re.compile(whole_word(old), re.IGNORECASE)

    def edit(caption: str, record: Record) -> str:
        if pattern.search(caption) is None:
            return caption
        put, parts = bounded(lambda match: new), caption.split(",")
        if not any(map(pattern.search, parts)):  # what is replaced has commas itself
            return _spaced(pattern.sub(put, caption))
        # Other tags stay to the letter, whatever signs they are made of.
        kept = [part for one in parts if (part := rewritten(one, put)) is not None]
        return ",".join(kept).strip()

    def rewritten(part: str, put: Callable[[re.Match[str]], str]) -> str | None:
        if pattern.search(part) is None:
            return part
        text = _spaced(pattern.sub(put, part))
        return part[: len(part) - len(part.lstrip())] + text if text else None

    return edit


def _replace_pattern(old: str, new: str) -> Rewrite:
    re.compile(old).sub(new, "")  # raises now for a wrong group number in `new`
    pattern = SearchPattern(old)
    return lambda caption, record: pattern.replaced(caption, new)


def _rename(noun: str, subject: str) -> Rewrite:
    return lambda caption, record: rename_subject(caption, noun, subject)[0]


def remove_phrases(value: str, line: str) -> Rewrite:
    """Remove tags from a tag list, or phrases from sentences."""
    unwanted = {same_tag(tag) for tag in split_tags(value)}
    removals = [replace_words(tag, "") for tag in split_tags(value)]

    def kept(section: str) -> str:
        return join_tags(tag for tag in split_tags(section) if same_tag(tag) not in unwanted)

    def edit(caption: str, record: Record) -> str:
        if looks_like_tags(caption):
            return by_section(caption, kept)
        for remove in removals:
            caption = remove(caption, record)
        return caption

    return edit


def _trigger(value: str, line: str) -> Rewrite:
    """Add the placeholder to captions that lack it, with the record's class word and kind."""

    def edit(caption: str, record: Record) -> str:
        kind = Kind(record.kind) if record.kind else Kind.OBJECT
        label = Label(placeholder=value, class_word=record.class_word, kind=kind)
        return named_caption(caption, label)

    return edit


def _first_tags(value: str, line: str) -> Rewrite:
    """Move these tags to the front, in this order."""
    order = [same_tag(tag) for tag in split_tags(value)]

    def sorted_by(section: str) -> str:
        tags = split_tags(section)
        rank = {tag: order.index(same_tag(tag)) for tag in tags if same_tag(tag) in order}
        return join_tags(sorted(tags, key=lambda tag: rank.get(tag, len(order))))

    return lambda caption, record: by_section(caption, sorted_by)


def _at_most(value: str, line: str) -> Rewrite:
    """Keep the first words, up to a comma or the end of a sentence if one is near."""
    if not value.isdecimal() or int(value) < 1:
        raise _error(line, "write a number of words")
    limit = int(value)

    def edit(caption: str, record: Record) -> str:
        ends = [match.end() for match in re.finditer(r"\S+", caption)]
        if len(ends) <= limit:
            return caption
        cut = caption[: ends[limit - 1]]
        near = max(cut.rfind(mark) for mark in (",", ".", ";"))
        return (cut[:near] if near > len(cut) * 0.6 else cut).rstrip(" ,;.")

    return edit


def _unique_tags(caption: str, record: Record) -> str:
    seen: set[str] = set()

    def new(section: str) -> str:
        fresh: list[str] = []
        for tag in split_tags(section):
            if same_tag(tag) not in seen:
                fresh.append(tag)
            seen.add(same_tag(tag))
        return join_tags(fresh)

    return by_section(caption, new)


def _first_sentence(caption: str, record: Record) -> str:
    return re.split(r"(?<=[.!?])\s", caption.strip(), maxsplit=1)[0]


def _lower(caption: str, record: Record) -> str:
    """Everything in lower case except the record's placeholder."""
    parts = split_caption(caption, [record.concept] if record.concept else [])
    return "".join(part if is_placeholder else part.lower() for is_placeholder, part in parts)


def _no_boilerplate(caption: str, record: Record) -> str:
    caption = without_signs(caption)
    text = re.sub(
        r"^\W*(this|the) (image|picture|photo|photograph) (shows|depicts|features|displays|is of) ",
        "",
        caption,
        flags=re.IGNORECASE,
    )
    return text if text == caption else text[:1].lower() + text[1:]


def _spaced(text: str) -> str:
    """Remove double blanks, blanks before punctuation, and empty parts between commas."""
    text = re.sub(r"[ \t]{2,}", " ", text)
    # A sign with more behind it is a tag, such as ;d or an ellipsis.
    # Without a look at what is before, thousands of blanks take a minute.
    text = re.sub(r"(?<!\s)\s+([,.;])(?=\s|$)", r"\1", text)
    return re.sub(r"(,\s*){2,}", ", ", text).strip(" ,") if "," in text else text.strip()


def _put(value: str, *, before: bool) -> Rewrite:
    """Add text at one end unless it is there, with a blank between, or exactly as in quotes."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    else:
        value = f"{value} " if before else f" {value}"

    def edit(caption: str, record: Record) -> str:
        present = caption.startswith(value) if before else caption.endswith(value)
        if present or caption.strip() == value.strip():
            return caption
        return f"{value}{caption}" if before else f"{caption}{value}"

    return edit


PAIRS: dict[str, Callable[[str, str], Rewrite]] = {
    "replace": replace_words,
    "regex": _replace_pattern,
    "subject": _rename,
}
VALUES: dict[str, Callable[[str, str], Rewrite]] = {
    "prefix": lambda value, line: _put(value, before=True),
    "suffix": lambda value, line: _put(value, before=False),
    "trigger": _trigger,
    "remove": remove_phrases,
    "first tags": _first_tags,
    "words": _at_most,
}
PLAIN: dict[str, Rewrite] = {
    "lower": _lower,
    "unique tags": _unique_tags,
    "sort tags": lambda caption, record: by_section(
        caption, lambda section: join_tags(sorted(split_tags(section), key=same_tag))
    ),
    "first sentence": _first_sentence,
    "one line": lambda caption, record: " ".join(caption.split()),
    "spaces for underscores": lambda caption, record: by_section(
        caption, lambda section: join_tags(map(with_blanks, split_tags(section)))
    ),
    "no boilerplate": _no_boilerplate,
    "clear": lambda caption, record: "",
}
