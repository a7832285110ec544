"""What the editor is shown while a node runs: progress, texts and the pack's own events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import comfy.model_management as management
import comfy.utils
from comfy_execution.utils import get_executing_context
from server import PromptServer

T = TypeVar("T")
LINES = 60
"""Most lines of a text that are shown on a node; its output has them all."""
MARKS = frozenset("\\`*_{}[]<>()#+-.!|~&=")
"""Letters that HTML or Markdown takes for its own."""


def watched(items: Iterable[T], total: int) -> Iterator[T]:
    """The items in their order, under a progress bar of `total` steps; Cancel raises between two.

    Whatever made an item, and whatever was done with the one before, is finished by then.
    """
    bar = comfy.utils.ProgressBar(max(total, 1))
    for item in items:
        management.throw_exception_if_processing_interrupted()
        yield item
        bar.update(1)


def send_event(noun: str, data: Mapping[str, Any]) -> None:
    """Send `pivotal.<noun>` to the page that queued the graph, or to all where none did."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_sync(f"pivotal.{noun}", dict(data), server.client_id)


def tell(text: str) -> str:
    """Show a text on the node that runs, in the editor that queued the graph; return the text."""
    server, context = getattr(PromptServer, "instance", None), get_executing_context()
    if server is not None and context is not None:
        lines = text.splitlines()
        rest = [f"and {len(lines) - LINES} more lines"] if len(lines) > LINES else []
        shown = "  \n".join(map(verbatim, [*lines[:LINES], *rest]))
        server.send_progress_text(shown, context.node_id, server.client_id)
    return text


def verbatim(line: str) -> str:
    """A line that the editor shows letter by letter: Nodes 2.0 reads the text as Markdown, the
    classic renderer as HTML, and captions are neither. Two blanks at its end part lines in both."""
    words = line.lstrip(" ")
    indented = "&nbsp;" * (len(line) - len(words))
    return indented + "".join(f"&#{ord(c)};" if c in MARKS else c for c in words)
