"""Progress and Cancel of whatever goes through its items one by one."""

from __future__ import annotations

from collections.abc import Iterator

import comfy.model_management as management
import comfy.utils
import pytest

from pack.nodes.host.events import watched


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(value, total) of all that the bar shows."""
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: seen.append((value, total))
    )
    return seen


def test_items_come_in_order_and_the_bar_ends_full(shown: list[tuple[int, int]]):
    assert list(watched(iter("abc"), 3)) == ["a", "b", "c"]
    assert shown[0] == (1, 3) and shown[-1] == (3, 3)


def test_nothing_at_all_shows_nothing(shown: list[tuple[int, int]]):
    assert list(watched((), 0)) == [] and shown == []


def test_cancel_ends_between_two_items_with_what_is_done_kept():
    done, made = list[int](), list[int]()

    def items() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            yield number

    with pytest.raises(management.InterruptProcessingException):
        for number in watched(items(), 4):
            done.append(number)
            if number == 1:
                management.interrupt_current_processing()
    assert done == [0, 1]
    assert made == [0, 1, 2]
    management.throw_exception_if_processing_interrupted()
