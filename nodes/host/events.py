"""What the editor shows while a node runs: progress, texts and the pack's own events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import comfy.model_management as management
import comfy.utils
from comfy.cli_args import args
from comfy_execution.utils import get_executing_context
from server import PromptServer

T = TypeVar("T")
MOST_LINES = 60
"""How many lines of a text a node shows; its output has all of them."""
MARKS = frozenset("\\`*_{}[]<>()#+-.!|~&=")
"""Characters that mean something in HTML or Markdown."""


def watched(items: Iterable[T], total: int) -> Iterator[T]:
    """The items in order, under a progress bar of `total` steps; Cancel raises between two."""
    bar = comfy.utils.ProgressBar(max(total, 1))
    for item in items:
        # After the item is made and before it is used: what is done so far is whole.
        management.throw_exception_if_processing_interrupted()
        yield item
        bar.update(1)


def send_event(noun: str, data: Mapping[str, Any]) -> None:
    """Send `pivotal.<noun>` to the page that queued the graph, or to every page if none did.

    With --multi-user, pages of others learn nothing.
    """
    server = getattr(PromptServer, "instance", None)
    if server is not None and (server.client_id is not None or not args.multi_user):
        server.send_sync(f"pivotal.{noun}", dict(data), server.client_id)


def show_text(text: str) -> str:
    """Show a text on the running node, in the editor that queued the graph; return the text.

    A file name that is no UTF-8 gets marks in the place of its unreadable bytes: neither the
    editor nor a node that takes the text could send them on.
    """
    text = text.encode("utf-8", "replace").decode()
    server, context = getattr(PromptServer, "instance", None), get_executing_context()
    if server is not None and context is not None:
        lines = text.splitlines()
        more = [f"and {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
        # In Markdown, two blanks at the end of a line keep the next one apart.
        shown = "  \n".join(map(verbatim, [*lines[:MOST_LINES], *more]))
        server.send_progress_text(shown, context.node_id, server.client_id)
    return text


def verbatim(line: str) -> str:
    """A line escaped so that the editor shows it as it is.

    Nodes 2.0 reads the text as Markdown and the classic renderer reads it as HTML; captions are
    neither.
    """
    words = line.lstrip(" ")
    indented = "&nbsp;" * (len(line) - len(words))
    return indented + "".join(f"&#{ord(c)};" if c in MARKS else c for c in words)
