"""What a person, an input method or a failing server does to the editor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from re import Pattern
from typing import Any

from harness.editor import Editor

COPY = """type => {
    const canvas = window.app.canvas;
    const node = canvas.graph.nodes.find(one => one.type === type);
    canvas.selectItems([node]);
    canvas.copyToClipboard([node]);
    canvas.pasteFromClipboard({ position: [node.pos[0] + 60, node.pos[1] + node.size[1] + 60] });
}"""


def copy_and_paste(editor: Editor, kind: str) -> None:
    """Copy the node of a kind and paste it beneath."""
    editor.page.evaluate(COPY, kind)


def compose(editor: Editor, text: str) -> None:
    """Write with an input method, which holds the text until a key confirms it."""
    session = editor.page.context.new_cdp_session(editor.page)
    ends = {"selectionStart": len(text), "selectionEnd": len(text)}
    session.send("Input.imeSetComposition", {"text": text, **ends})


@contextmanager
def unreachable(editor: Editor, address: Pattern[str]) -> Iterator[None]:
    """Let no request to an address arrive, which the browser itself may note."""

    def drop(route: Any) -> None:
        route.abort()

    editor.page.route(address, drop)
    yield
    editor.page.unroute(address, drop)
    editor.problems[:] = [one for one in editor.problems if "net::ERR_FAILED" not in one]


@contextmanager
def refused(editor: Editor, address: Pattern[str], sentence: str) -> Iterator[None]:
    """Let the server answer an address with an error, which the browser itself may note."""

    def refuse(route: Any) -> None:
        route.fulfill(status=500, json={"error": sentence})

    editor.page.route(address, refuse)
    yield
    editor.page.unroute(address, refuse)
    editor.problems[:] = [one for one in editor.problems if "status of 500" not in one]
