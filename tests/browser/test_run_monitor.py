"""The monitor in a real browser: a run can be watched, also after a reload and in a subgraph."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser.graphs import training, write_pictures

from harness.editor import Editor
from harness.server import Server

POINTS = "canvas[data-chart=loss]"


@pytest.fixture(autouse=True)
def pictures(server: Server) -> Iterator[None]:
    write_pictures(server.base)
    yield
    server.interrupt()
    server.wait_until_idle(timeout=120)


def wait_for_more(editor: Editor, selector: str, than: int = 1) -> int:
    """Wait until a chart shows more points than `than`; return how many it shows."""
    editor.page.wait_for_function(
        "([s, n]) => Number(document.querySelector(s)?.dataset.points) > n", arg=[selector, than]
    )
    return int(editor.page.locator(selector).first.get_attribute("data-points"))


def start(editor: Editor, name: str) -> None:
    editor.load_prompt(training(f"{name} {editor.renderer}"))
    editor.queue()


def test_the_loss_line_moves_in_the_panel_and_on_the_node(editor: Editor):
    start(editor, "moves")
    editor.open_panel("pivotal.runs")
    seen = wait_for_more(editor, POINTS)
    editor.expect(".pivotal-run.chosen").to_contain_text(f"moves {editor.renderer}")
    wait_for_more(editor, POINTS, seen + 2)
    wait_for_more(editor, ".pivotal-spark", seen + 2)
    editor.shot("monitor")


def test_a_reload_in_the_middle_recovers_the_run(editor: Editor):
    start(editor, "reload")
    editor.open_panel("pivotal.runs")
    seen = wait_for_more(editor, POINTS, 3)
    editor.reload()
    wait_for_more(editor, ".pivotal-spark", seen)
    if not editor.page.locator(POINTS).count():
        editor.open_panel("pivotal.runs")
    wait_for_more(editor, POINTS, seen + 1)


def test_the_view_on_the_node_adds_nothing_to_the_saved_workflow(editor: Editor):
    editor.load_prompt(training("saved"))
    (saved,) = [n for n in editor.saved()["nodes"] if n["type"] == "Pivotal_TrainConcepts"]
    names = editor.server.object_info()["Pivotal_TrainConcepts"]["input"]["required"]
    widgets = [
        spec
        for spec in names.values()
        if not isinstance(spec[0], str) or spec[0] in ("INT", "FLOAT", "STRING", "COMBO", "BOOLEAN")
    ]
    # The seed's "control after generate" has a value of its own.
    assert len(saved["widgets_values"]) == len(widgets) + 1
