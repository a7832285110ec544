"""Captions as lists of tags, separated by commas."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

MARK = "|||"
"""kohya's mark between tags that stay in place, those that move, and a suffix that stays."""


def split_tags(caption: str) -> list[str]:
    """The tags of a caption, stripped, without empty ones; a mark ends a tag as a comma does."""
    return [tag for part in caption.replace(MARK, ",").split(",") if (tag := part.strip())]


def by_section(caption: str, edit: Callable[[str], str]) -> str:
    """An edit of tags that leaves each of them on its side of the marks."""
    return f" {MARK} ".join(map(edit, caption.split(MARK))).strip()


def join_tags(tags: Iterable[str]) -> str:
    return ", ".join(tags)


def looks_like_tags(caption: str) -> bool:
    """Whether a caption is a list of short tags rather than sentences."""
    tags = split_tags(caption)
    words = sum(len(tag.split()) for tag in tags)
    return len(tags) >= 3 and words <= 3 * len(tags)


def are_tags(*texts: str) -> bool:
    """Whether texts can be lists of tags, of any length: short parts, a comma, and no sentence."""
    short = all(len(tag.split()) <= 4 for text in texts for tag in split_tags(text))
    ends = any(re.search(r"[.!?](\s|$)", text) for text in texts)
    return short and not ends and any("," in text for text in texts)


def merged_tags(first: str, second: str) -> str:
    """The first list with the tags of the second that it lacks; the first stays to the letter."""
    known = set(map(same_tag, split_tags(first)))
    added = {same_tag(tag): tag for tag in split_tags(second) if same_tag(tag) not in known}
    return ", ".join([first, *added.values()])


def with_blanks(tag: str) -> str:
    """A tag with blanks for underscores, unless it is a face such as ^_^, o_o or (o)_(o).

    A face has one sign, or one letter, on each side of its mouth.
    """
    sides = tag.split("_")
    is_face = len(sides) == 2 and all(sum(map(str.isalnum, side)) < 2 for side in sides)
    return tag if is_face else tag.replace("_", " ")


def same_tag(tag: str) -> str:
    """A tag in lower case with blanks for underscores, so that spellings compare equal."""
    return " ".join(tag.replace("_", " ").casefold().split())
