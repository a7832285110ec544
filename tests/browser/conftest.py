"""What browser tests share: a real browser for each file, and the editor in both renderers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from harness.editor.editor import Editor
    from harness.host.server import Server

RENDERERS = ("classic", "nodes2")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Closed after each file: while it runs, no test can start an event loop of its own."""
    from harness.editor.editor import chromium

    with chromium() as running:
        yield running


@pytest.fixture(params=RENDERERS)
def editor(request: pytest.FixtureRequest, browser: Browser, server: Server) -> Iterator[Editor]:
    """The editor of the real server, ready, in each renderer; fails on errors in the page."""
    from harness.editor.editor import Editor

    context = browser.new_context(viewport={"width": 1500, "height": 1000})
    opened = Editor(context.new_page(), server, request.param).open()
    try:
        yield opened
    finally:
        context.close()
    assert opened.problems == []
