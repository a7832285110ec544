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


@pytest.fixture(scope="module", params=RENDERERS)
def renderer(request: pytest.FixtureRequest) -> str:
    return request.param


class Desk:
    """The page that the tests of a file share in one renderer: to open it takes six seconds."""

    def __init__(self, browser: Browser, server: Server, renderer: str) -> None:
        self._browser, self._server, self._renderer = browser, server, renderer
        self._editor: Editor | None = None

    def editor(self) -> Editor:
        """The editor, ready."""
        from harness.editor.editor import Editor

        if self._editor is None:
            context = self._browser.new_context(viewport={"width": 1500, "height": 1000})
            self._editor = Editor(context.new_page(), self._server, self._renderer).open()
        return self._editor

    def close(self) -> None:
        """Close the page; the next test gets another."""
        if self._editor is not None:
            self._editor.page.context.close()
        self._editor = None


@pytest.fixture(scope="module")
def desk(browser: Browser, server: Server, renderer: str) -> Iterator[Desk]:
    made = Desk(browser, server, renderer)
    yield made
    made.close()


@pytest.fixture
def new_page(desk: Desk) -> None:
    """For a test that depends on what the browser keeps: nothing from the tests before it."""
    desk.close()


@pytest.fixture
def editor(request: pytest.FixtureRequest, desk: Desk) -> Iterator[Editor]:
    """The editor of the real server, empty, in each renderer; fails on errors in the page."""
    failed, opened = request.session.testsfailed, desk.editor()
    yield opened
    passed = request.session.testsfailed == failed
    if passed:
        opened.tidy()
    if opened.problems or not passed:
        desk.close()
    assert opened.problems == []
