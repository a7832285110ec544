"""Captions as lists of tags, separated by commas."""

from __future__ import annotations

from collections.abc import Iterable


def split_tags(caption: str) -> list[str]:
    """The tags of a caption, stripped, without empty ones."""
    return [tag for part in caption.split(",") if (tag := part.strip())]


def join_tags(tags: Iterable[str]) -> str:
    return ", ".join(tags)


def looks_like_tags(caption: str) -> bool:
    """Whether a caption is a list of short tags rather than sentences."""
    tags = split_tags(caption)
    words = sum(len(tag.split()) for tag in tags)
    return len(tags) >= 3 and words <= 3 * len(tags)


def same_tag(tag: str) -> str:
    """A tag in lower case with blanks for underscores, so that spellings compare equal."""
    return " ".join(tag.replace("_", " ").casefold().split())
