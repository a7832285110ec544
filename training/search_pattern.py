"""Regular expressions that come from outside, which may take no more than a bounded time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TypeVar

SECONDS = 10.0
T = TypeVar("T")


class SearchPattern:
    """A regular expression in Python's syntax; all its searches together have ten seconds.

    Some expressions, such as repeats inside repeats, take longer than the universe on a short text,
    and Python's own module can be interrupted by nothing, not even Cancel. Raises re.error for text
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
        """The text with every match replaced; ValueError if that takes too long."""
        return self._timed(lambda left: self._pattern.sub(new, text, timeout=left))

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
