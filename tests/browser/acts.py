"""What a person, an input method or a failing server does to the editor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from re import Pattern
from typing import Any

from harness.editor.editor import Editor

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


def unreachable(editor: Editor, address: Pattern[str]) -> AbstractContextManager[None]:
    """Let no request to an address arrive."""
    return _answered(editor, address, lambda route: route.abort(), "net::ERR_FAILED")


def refused(editor: Editor, address: Pattern[str], sentence: str) -> AbstractContextManager[None]:
    """Let the server answer an address with an error."""
    answer = {"status": 500, "json": {"error": sentence}}
    return _answered(editor, address, lambda route: route.fulfill(**answer), "status of 500")


@contextmanager
def _answered(
    editor: Editor, address: Pattern[str], answer: Callable[[Any], None], noted: str
) -> Iterator[None]:
    """Answer requests in the server's place; what the browser itself may note is no problem."""
    editor.page.route(address, answer)
    yield
    editor.page.unroute(address, answer)
    editor.problems[:] = [one for one in editor.problems if noted not in one]
