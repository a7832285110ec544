"""The run that is training now, as routes see it: its progress, and what is requested of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..events import send_event
from ..users import current_user

FINISH, CHECKPOINT, PREVIEW, PIVOT = "finish", "checkpoint", "preview", "pivot"


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """What a person requests of a run while it trains."""

    what: str
    concept: str = ""
    """Which one a pivot is for"""


@dataclass(slots=True)
class LiveRun:
    """A run between its start and its end."""

    name: str
    node: str
    """Execution id of the node, "3:7" for one inside a subgraph"""
    steps: int
    concepts: tuple[str, ...] = ()
    latest: Mapping[str, Any] = field(default_factory=dict)
    """The last report, replaced whole so that another thread may read it"""
    requests: deque[LiveRequest] = field(default_factory=deque[LiveRequest])
    """Filled by routes, emptied by the run after each step; a deque is safe between threads"""

    def take_requests(self) -> list[LiveRequest]:
        """What has been requested since the last call."""
        # One that is added meanwhile stays for the next call.
        return [self.requests.popleft() for _ in range(len(self.requests))]


_LOCK = threading.Lock()
_LIVE: dict[tuple[str, str], LiveRun] = {}
"""By user and name"""


@contextmanager
def going_live(run: LiveRun) -> Iterator[LiveRun]:
    """List a run as training until the context ends."""
    key = current_user(), run.name
    with _LOCK:
        _LIVE[key] = run
    try:
        yield run
    finally:
        with _LOCK:
            _LIVE.pop(key, None)
        send_event("ended", {"run": run.name, "node": run.node})


def live_run(name: str) -> LiveRun | None:
    """The run of a name while it trains."""
    with _LOCK:
        return _LIVE.get((current_user(), name))
