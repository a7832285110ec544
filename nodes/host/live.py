"""The run that is training now, as routes see it: where it stands and what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .events import send_event


@dataclass(slots=True)
class LiveRun:
    """A run between its start and its end; the training thread owns all but `latest`."""

    name: str
    node: str
    """Execution id of the node, "3:7" for one inside a subgraph"""
    steps: int
    latest: Mapping[str, Any] = field(default_factory=dict)
    """The last report, replaced whole so that another thread may read it"""


_LOCK = threading.Lock()
_LIVE: dict[str, LiveRun] = {}


@contextmanager
def going_live(run: LiveRun) -> Iterator[LiveRun]:
    """List a run as training until the context ends."""
    with _LOCK:
        _LIVE[run.name] = run
    try:
        yield run
    finally:
        with _LOCK:
            _LIVE.pop(run.name, None)
        send_event("ended", {"run": run.name, "node": run.node})


def live_run(name: str) -> LiveRun | None:
    """The run of a name while it trains."""
    with _LOCK:
        return _LIVE.get(name)
