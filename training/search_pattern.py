"""Searches that come from outside: their time is bounded, and so is the text that they insert."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

SECONDS = 10.0
MOST_INSERTED = 1024**2
"""Characters that the replacements in one text may have together"""
T = TypeVar("T")


def bounded(replacement: Callable[[Any], str]) -> Callable[[Any], str]:
    """A replacement for one text; ValueError from the match on at which it inserts too much.

    A long text in place of each of many letters would fill the memory before it is seen.
    """
    left = MOST_INSERTED

    def put(match: Any) -> str:
        nonlocal left
        text = replacement(match)
        left -= len(text)
        if left < 0:
            raise _too_long()
        return text

    return put


def _too_long() -> ValueError:
    return ValueError(
        f"A replacement inserts more than {MOST_INSERTED:,} characters into one text: write a "
        "shorter one."
    )


class SearchPattern:
    """A regular expression in Python's syntax; all its searches together have ten seconds.

    Repeats inside repeats can take years on a short text, and nothing can interrupt Python's own
    module, not even Cancel. Raises re.error for text
    that is not a pattern.
    """

    def __init__(self, text: str, *, ignore_case: bool = False):
        re.compile(text)  # decides what is a pattern, and says what is wrong with it
        import regex  # comes with transformers; its searches can be given a time

        self.text, self._left = text, SECONDS
        self._pattern = regex.compile(text, regex.IGNORECASE if ignore_case else 0)

    def found_in(self, text: str) -> bool:
        """Whether the pattern is found; ValueError if that takes too long."""
        return self._timed(lambda left: self._pattern.search(text, timeout=left) is not None)

    def replaced(self, text: str, new: str) -> str:
        """The text with every match replaced; ValueError if it takes or inserts too much."""
        # One replacement may repeat what was found as often as it names it.
        if new.count("\\") * len(text) > 64 * MOST_INSERTED:
            raise _too_long()
        put = bounded(lambda match: match.expand(new))
        return self._timed(lambda left: self._pattern.sub(put, text, timeout=left))

    def _timed(self, search: Callable[[float], T]) -> T:
        start = time.monotonic()
        try:
            if self._left <= 0:
                raise TimeoutError
            return search(self._left)
        except TimeoutError:
            raise ValueError(
                f'The search pattern "{self.text[:80]}" takes more than {SECONDS:g} seconds: write '
                "it without repeats inside repeats."
            ) from None
        finally:
            self._left -= time.monotonic() - start
