"""Queries that select pictures: `faces == 1 and short >= 768 and not caption ~ "hat"`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

from ..search_pattern import SearchPattern
from .captions.tags import same_tag, split_tags
from .folder.names import same_name
from .records import Record

Test = Callable[[Record], bool]
Value = float | str | bool | frozenset[str]

FIELDS: dict[str, Callable[[Record], Value]] = {
    "width": lambda r: r.width,
    "height": lambda r: r.height,
    "short": lambda r: min(r.width, r.height),
    "long": lambda r: max(r.width, r.height),
    "area": lambda r: r.width * r.height,
    "aspect": lambda r: r.width / r.height,
    "repeats": lambda r: r.repeats,
    "faces": lambda r: len(r.boxes or ()),
    "words": lambda r: len(r.caption.split()),
    "tags": lambda r: len(split_tags(r.caption)),
    "caption": lambda r: r.caption,
    "name": lambda r: r.name,
    "source": lambda r: r.caption_source,
    "concept": lambda r: r.concept,
    "class_word": lambda r: r.class_word,
    "kind": lambda r: r.kind,
    "mask": lambda r: r.mask is not None,
    "flag": lambda r: frozenset(r.flags),
    "trait": lambda r: r.traits,
    "tag": lambda r: frozenset(same_tag(tag) for tag in split_tags(r.caption)),
}
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}
TOKEN = re.compile(r'\s*(?:(<=|>=|==|!=|[<>=~()])|("[^"]*"|\'[^\']*\')|([\w.]+))')


def parse_query(text: str) -> Test:
    """The test of a query; an empty query selects every picture.

    The ValueError for a wrong query says where it is wrong.
    """
    if not text.strip():
        return lambda record: True
    parser = _Parser(text)
    test = parser.either()
    if parser.peek():
        raise parser.error(f'"{parser.peek()}" is not expected there')
    return test


class _Parser:
    def __init__(self, text: str):
        self.text = text
        self.tokens = list(_tokens(text))

    def peek(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def take(self) -> str:
        return self.tokens.pop(0) if self.tokens else ""

    def error(self, reason: str) -> ValueError:
        return ValueError(
            f"The query {self.text!r} is not understood: {reason}. "
            'An example: short >= 768 and not caption ~ "hat"'
        )

    def either(self) -> Test:
        test = self.both()
        while self.peek().lower() == "or":
            self.take()
            test = _or(test, self.both())
        return test

    def both(self) -> Test:
        test = self.condition()
        while self.peek().lower() == "and":
            self.take()
            test = _and(test, self.condition())
        return test

    def condition(self) -> Test:
        word = self.take()
        if word.lower() == "not":
            inner = self.condition()
            return lambda record: not inner(record)
        if word == "(":
            test = self.either()
            if self.take() != ")":
                raise self.error("a bracket is not closed")
            return test
        if word not in FIELDS:
            known = ", ".join(FIELDS)
            raise self.error(f'"{word}" is not one of {known}' if word else "something is missing")
        return self.comparison(word)

    def comparison(self, name: str) -> Test:
        field = FIELDS[name]
        sign = self.peek()
        if sign not in {*COMPARE, "~", "="}:
            return lambda record: bool(field(record))
        self.take()
        word = self.take()
        if not word or word in {*COMPARE, "~", "(", ")"}:
            raise self.error(f"a value is missing after {sign}")
        return _comparison(field, "==" if sign == "=" else sign, word, self.error)


def _comparison(
    field: Callable[[Record], Value], sign: str, word: str, error: Callable[[str], ValueError]
) -> Test:
    target = word[1:-1] if word[0] in "\"'" else word
    if sign == "~":
        try:
            pattern = SearchPattern(target, ignore_case=True)
        except re.error as bad:
            raise error(f'"{target}" is not a search pattern ({bad})') from bad
        return lambda record: any(pattern.found_in(text) for text in _texts(field(record)))

    def test(record: Record) -> bool:
        value = field(record)
        if isinstance(value, bool):
            return COMPARE[sign](value, target.lower() in ("1", "true", "yes"))
        if isinstance(value, int | float):
            return COMPARE[sign](float(value), _number(target, error))
        if isinstance(value, str):
            return COMPARE[sign](same_name(value), same_name(target))
        has_tag = same_tag(target) in {same_tag(tag) for tag in value}
        return has_tag if sign == "==" else not has_tag

    return test


def _number(word: str, error: Callable[[str], ValueError]) -> float:
    try:
        return float(word)
    except ValueError:
        raise error(f'"{word}" is not a number') from None


def _texts(value: Value) -> list[str]:
    return list(value) if isinstance(value, frozenset) else [str(value)]


def _tokens(text: str) -> Iterator[str]:
    end = 0
    while text[end:].strip():
        match = TOKEN.match(text, end)
        if match is None:
            tail = text[end:].strip()
            raise ValueError(f"The query {text!r} is not understood at {tail!r}: close its quotes.")
        yield next(group for group in match.groups() if group is not None)
        end = match.end()


def _or(left: Test, right: Test) -> Test:
    return lambda record: left(record) or right(record)


def _and(left: Test, right: Test) -> Test:
    return lambda record: left(record) and right(record)
