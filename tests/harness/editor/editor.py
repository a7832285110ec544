"""ComfyUI's editor in a real browser, as a person uses it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from harness.editor.browser import find_browser
from harness.host.server import Server

READY_MS = 120_000
PANEL = "Workspace.ToggleBottomPanelTab"
# What the host itself asks for at its start and does not have.
NOISE = ("user.css", "userdata", "comfy.templates.json", "favicon", "/api/settings/")
NOISE += ("ComfyApp graph accessed before initialization",)
# The host asks a model's home for its size; the server's own policy refuses that.
NOISE += ("missingModelDownload",)
TIDY = """async monitor => {
    const { command, sidebarTab, workflow } = app.extensionManager;
    if (document.querySelector('.pivotal-monitor')) await command.execute(monitor);
    sidebarTab.activeSidebarTabId = null;
    await command.execute('Comfy.NewBlankWorkflow');
    const others = workflow.openWorkflows.filter(one => one !== workflow.activeWorkflow);
    for (const one of others) await workflow.closeWorkflow(one);
}"""
SETTLED = """async () => {
    const places = () => JSON.stringify(app.graph.nodes.map(n => [...n.pos, ...n.size]));
    for (let before; before !== (before = places()); )
        await new Promise(done => setTimeout(done, 500));
}"""
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; while it runs, this thread has an event loop, so nothing else may start one."""
    with sync_playwright() as playwright:
        path = find_browser()
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Editor:
    """One page of the editor in one of its renderers, "classic" or "nodes2"."""

    def __init__(self, page: Page, server: Server, renderer: str) -> None:
        self.page, self.server, self.renderer = page, server, renderer
        self.problems: list[str] = []
        page.set_default_timeout(READY_MS)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._on_console)

    def _on_console(self, message: ConsoleMessage) -> None:
        place = f"{message.text} {message.location.get('url', '')}"
        if message.type == "error" and not any(part in place for part in NOISE):
            self.problems.append(place)

    def open(self) -> Editor:
        """Load the editor and wait until it can be used."""
        settings = {
            "Comfy.TutorialCompleted": True,
            "Comfy.VueNodes.Enabled": self.renderer == "nodes2",
            "Comfy.Workflow.ShowMissingModelsWarning": False,
        }
        self.server.post("/settings", settings)
        self.page.goto(self.server.url("/"))
        self.wait_until_ready()
        return self

    def reload(self) -> None:
        """Press F5."""
        self.page.reload()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        self.page.wait_for_function(
            "window.app?.extensionManager?.setting && window.app.isGraphReady"
        )
        self.page.wait_for_function("window.app.extensions.some(e => e.name === 'pivotal.editor')")
        # What the server says to a page that is not connected yet is lost to it.
        self.page.wait_for_function(
            "window.app.api.clientId && window.app.api.socket.readyState === 1"
        )
        # Last of all the editor opens the workflow that it had, in place of whatever is there.
        self.page.wait_for_function("window.app.extensionManager.workflow.activeWorkflow")

    def tidy(self) -> None:
        """Close all that is open but an empty workflow, and let the server answer everything."""
        self.page.unroute_all()
        self.page.keyboard.press("Escape")
        self.page.evaluate(TIDY, f"{PANEL}.pivotal.runs")

    def load(self, workflow: Mapping[str, Any]) -> None:
        """Open a workflow in place of the one on the screen."""
        self.page.evaluate("w => window.app.loadGraphData(w)", workflow)

    def load_prompt(self, prompt: Mapping[str, Any]) -> None:
        """Open a prompt in the API's form, as when its file is dropped onto the editor."""
        self.page.evaluate("p => window.app.loadApiJson(p, 'test')", prompt)

    def queue(self) -> None:
        """Press Run."""
        self.page.evaluate("() => window.app.queuePrompt(0, 1)")

    def saved(self) -> dict[str, Any]:
        """The workflow as the editor would save it."""
        return self.page.evaluate("() => window.app.graph.serialize()")

    def command(self, name: str) -> None:
        """Run a command of the editor by its id."""
        self.page.evaluate("n => window.app.extensionManager.command.execute(n)", name)

    def open_panel(self, tab: str) -> None:
        """Open a bottom panel tab by its id."""
        self.command(f"{PANEL}.{tab}")

    def settle(self) -> None:
        """Wait until no node has changed its place or size for half a second."""
        self.page.evaluate(SETTLED)

    def shot(self, name: str) -> None:
        """A screenshot, kept where PIVOTAL_SHOTS says."""
        folder = os.environ.get("PIVOTAL_SHOTS")
        if folder:
            self.page.screenshot(path=Path(folder) / f"{name}_{self.renderer}.png")

    def expect(self, selector: str) -> Any:
        """An assertion on an element that waits for it to come true."""
        return expect(self.page.locator(selector))
