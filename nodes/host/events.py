"""Events that the pack sends to the editor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server import PromptServer


def send_event(noun: str, data: Mapping[str, Any]) -> None:
    """Send `pivotal.<noun>` to the page that queued the graph, or to all where none did."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_sync(f"pivotal.{noun}", dict(data), server.client_id)
