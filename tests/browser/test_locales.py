"""The editor in another language, the pack's settings and its badges, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser.conftest import RENDERERS
from browser.graphs import PICTURES, TOKS, training

from factories import write_pictures
from harness.editor.editor import Editor
from harness.host.server import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LOCALES = Path(__file__).resolve().parents[2] / "locales"
LANGUAGES = sorted(path.name for path in LOCALES.iterdir())
# The frontend of the newest host that is tested has no German: it takes the file when it has.
OFFERED = [language for language in LANGUAGES if language != "de"]


def texts(language: str, name: str) -> Any:
    return json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(params=RENDERERS)
def foreign(request: pytest.FixtureRequest, browser: Browser, server: Server) -> Iterator[Any]:
    """Opens the editor in a language; English again afterwards."""
    contexts = []

    def open_in(language: str) -> Editor:
        server.post("/settings", {"Comfy.Locale": language})
        contexts.append(browser.new_context(viewport={"width": 1500, "height": 1000}))
        return Editor(contexts[-1].new_page(), server, request.param).open()

    yield open_in
    for context in contexts:
        context.close()
    server.post("/settings", {"Comfy.Locale": "en"})


def test_the_host_serves_every_language(server: Server):
    served = server.get("/i18n")
    for language in LANGUAGES:
        for name in ("nodeDefs", "settings", "commands"):
            for key, value in texts(language, name).items():
                assert served[language][name][key] == value
        assert served[language]["pivotal"] == texts(language, "main")["pivotal"]


def trainer(editor: Editor) -> dict[str, Any]:
    """How the editor calls Train Concepts, its sockets and its widgets."""
    return editor.page.evaluate(
        """() => {
          const node = app.graph.nodes.find(n => n.type === 'Pivotal_TrainConcepts')
          const called = s => s.label ?? s.localized_name ?? s.name
          const pairs = list => Object.fromEntries(list.map(s => [s.name, called(s)]))
          return {
            title: node.constructor.title,
            inputs: {...pairs(node.inputs), ...pairs(node.widgets)},
            outputs: node.outputs.map(called),
          }
        }"""
    )


@pytest.mark.parametrize("language", OFFERED)
def test_nodes_panel_settings_and_badges_speak_the_language_of_the_editor(foreign, language):
    editor: Editor = foreign(language)
    node = texts(language, "nodeDefs")["Pivotal_TrainConcepts"]
    words = texts(language, "main")["pivotal"]
    editor.load_prompt(training(f"in {language}"))
    shown = trainer(editor)
    assert shown["title"] == node["display_name"]
    assert {name: shown["inputs"][name] for name in node["inputs"]} == {
        name: one["name"] for name, one in node["inputs"].items()
    }
    assert shown["outputs"] == [one["name"] for one in node["outputs"].values()]
    editor.expect(".pivotal-line").to_contain_text(words["No run yet."])
    editor.open_panel("pivotal.runs")
    tab = editor.page.get_by_role("tab", name=words["Training"].upper())
    tab.wait_for()
    editor.shot(f"language_{language}")
    see_settings(editor, texts(language, "settings"), words)
    assert editor.problems == []


def see_settings(editor: Editor, settings: dict[str, Any], words: dict[str, str]) -> None:
    """Open the pack's page in the settings, then the About page."""
    editor.command("Comfy.ShowSettingsDialog")
    dialog = editor.page.get_by_role("dialog")
    dialog.get_by_text("Pivotal", exact=True).first.click()
    for one in settings.values():
        dialog.get_by_text(one["name"], exact=True).wait_for()
    editor.shot(f"settings_{words['Training']}")
    editor.page.keyboard.press("Escape")
    editor.command("Comfy.Help.AboutComfyUI")
    editor.page.get_by_text(words["Pivotal: report a problem"], exact=True).wait_for()
    editor.shot(f"about_{words['Training']}")


@pytest.fixture
def running(editor: Editor) -> Iterator[Editor]:
    """A run that trains while the settings say other things than at first."""
    write_pictures(editor.server.base / "input" / PICTURES, TOKS)
    set_all(editor, {"Training.OpenPanel": True, "Training.NodeView": False})
    set_all(editor, {"Training.Smoothing": 0, "Prompts.OfferNames": False})
    editor.load_prompt(training(f"settings {editor.renderer}"))
    editor.queue()
    yield editor
    editor.server.interrupt()
    editor.server.wait_until_idle(timeout=120)
    set_all(editor, {"Training.OpenPanel": False, "Training.NodeView": True})
    set_all(editor, {"Training.Smoothing": 0.95, "Prompts.OfferNames": True})


def set_all(editor: Editor, values: dict[str, Any]) -> None:
    for name, value in values.items():
        editor.page.evaluate(
            "([n, v]) => app.extensionManager.setting.set(n, v)", [f"Pivotal.{name}", value]
        )


def test_the_settings_do_what_they_say(running: Editor):
    page = running.page
    page.wait_for_selector(".pivotal-monitor")
    page.wait_for_function("document.querySelector('.pivotal-spark')?.dataset.points > 1")
    assert page.evaluate("document.querySelector('.pivotal-spark').hidden")
    module = "import('/extensions/pivotal-training/runs/series.js')"
    points = "[[1, 1], [2, 0], [3, 1]]"
    assert page.evaluate(f"{module}.then(m => m.smoothed({points}))") == [[1, 1], [2, 0], [3, 1]]
    set_all(running, {"Training.Smoothing": 0.9})
    assert page.evaluate(f"{module}.then(m => m.smoothed({points}))")[1][1] > 0.3
    field = page.evaluate_handle("document.body.appendChild(document.createElement('textarea'))")
    assert offered(running, field) == 0
    set_all(running, {"Prompts.OfferNames": True})
    assert offered(running, field) == 1


def offered(editor: Editor, field: Any) -> int:
    """How many lists of names are open a moment after `embedding:` was typed."""
    (editor.server.base / "models" / "embeddings").mkdir(parents=True, exist_ok=True)
    (editor.server.base / "models" / "embeddings" / "known.pt").write_bytes(b"")
    field.as_element().fill("")
    field.as_element().type("embedding:kno")
    editor.page.wait_for_timeout(1500)
    return editor.page.locator(".pivotal-offer").count()
