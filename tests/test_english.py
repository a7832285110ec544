"""Phrases that documents, tooltips, docstrings and comments do not use, each with a better one."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "docs/*.md", "web/docs/*.md", "web/**/*.js")
CODE = ("nodes/**/*.py", "training/**/*.py", "bundles/**/*.py")
PHRASES = {
    r"\b(goes|went|gone) on\b": "continues, resumes",
    r"\b(what|that|it|which|0) (is|are|was) none\b": "is invalid, is not one, is missing",
    r"\b(is|are|was|be|not) told\b": "is reported, is given, gets",
    r"\bwhat there is\b": "everything, whatever exists",
    r"\ba (line|number|name|row|value) a \w+": "a line for each",
    r", of which\b": "one of which, whose",
}


def texts() -> Iterator[tuple[str, int, str]]:
    """Each line that a person reads: of pages and scripts all, of modules comments and strings."""
    for path in (path for pattern in PAGES for path in ROOT.glob(pattern)):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield path.relative_to(ROOT).as_posix(), number, line
    for path in (path for pattern in CODE for path in ROOT.glob(pattern)):
        source = io.StringIO(path.read_text(encoding="utf-8"))
        for token in tokenize.generate_tokens(source.readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING):
                words = " ".join(token.string.split())
                yield path.relative_to(ROOT).as_posix(), token.start[0], words


def test_sentences_are_those_of_a_native_writer():
    found = [
        f"{place}:{number}: {match[0]!r}, better {better}"
        for place, number, text in texts()
        for phrase, better in PHRASES.items()
        if (match := re.search(phrase, text))
    ]
    assert found == []
