"""The monitor in a real browser: a run can be watched, also after a reload and in a subgraph."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser.acts import copy_and_paste, refused
from browser.graphs import PICTURES, TOKS, training, watched
from playwright.sync_api import expect

from factories import write_pictures
from harness.editor.editor import Editor
from harness.host.server import Server
from training import test_series as reported

POINTS = "canvas[data-chart=losses]"
LIST = re.compile("/pivotal/runs$")
JOURNAL = re.compile(r"/pivotal/runs/[^/]+\?after=")


@pytest.fixture(autouse=True)
def pictures(server: Server) -> Iterator[None]:
    write_pictures(server.base / "input" / PICTURES, TOKS)
    yield
    server.interrupt()
    server.wait_until_idle(timeout=120)


def wait_for_more(editor: Editor, selector: str, than: int = 1) -> int:
    """Wait until a chart shows more points than `than`; return how many it shows."""
    editor.page.wait_for_function(
        "([s, n]) => Number(document.querySelector(s)?.dataset.points) > n", arg=[selector, than]
    )
    return int(editor.page.locator(selector).first.get_attribute("data-points"))


def test_the_page_reads_the_same_points_from_reports_as_the_plots_do(editor: Editor):
    found = editor.page.evaluate(
        """async ([lines, keys]) => {
          const served = await (await fetch('/extensions')).json()
          const series = await import(served.find(path => path.endsWith('/runs/series.js')))
          return keys.map(key => [...series.pointsOf(lines, key)])
        }""",
        [reported.LINES, list(reported.POINTS)],
    )
    pairs = [{name: [tuple(p) for p in points] for name, points in one} for one in found]
    assert dict(zip(reported.POINTS, pairs, strict=True)) == reported.POINTS


GOOD = {"step": 1, "steps": 2, "loss": 0.5, "losses": [0.5]}
JUNK = [
    {"step": 1, "losses": "abc", "concepts": [1], "norms": None, "rates": {"a": {}}, "d": 3},
    {"step": 1, "previews": 5, "nearest": {"TOK": None, "x": {"clip_l": 3, "b": [1]}}},
    {"step": 1, "previews": [None, {}, {"file": 3}], "nearest": [1], "memory": "x", "pace": {}},
    {"step": 1, "event": {"a": 1}, "trouble": [], "loss": "much", "concept": 4},
    {"previews": "x"},
]
PLANTED = "planted in the page"


def test_the_panel_shows_every_run_next_to_one_whose_folder_holds_junk(editor: Editor):
    """Anybody on the network can upload files into a folder of runs."""
    for name, lines in ((PLANTED, [*JUNK, GOOD]), ("good", [GOOD])):
        run = editor.server.base / "output" / "pivotal" / name
        run.mkdir(parents=True, exist_ok=True)
        (run / "run.json").write_text("{}")
        (run / "report.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (editor.server.base / "output" / "pivotal" / PLANTED / "progress.json").write_text(
        "[" * 200_000
    )
    editor.reload()
    if not editor.page.locator(".pivotal-monitor").count():
        editor.open_panel("pivotal.runs")
    for name in (PLANTED, "good"):
        editor.page.locator(f".pivotal-run[data-run='{name}']").click()
        expect(editor.page.locator(".pivotal-facts")).to_contain_text("loss 0.5")
        wait_for_more(editor, POINTS, 0)


ANSWERS = ["null", "[]", "3", '{"runs": 5, "series": {}}', '{"runs": [null, {"run": 4}, 7]}']


def answer_with(editor: Editor, text: str) -> None:
    answer = {"status": 200, "content_type": "application/json", "body": text}
    editor.page.route(LIST, lambda route: route.fulfill(**answer))


@pytest.mark.parametrize("text", ANSWERS)
def test_the_page_survives_any_answer(editor: Editor, text: str):
    answer_with(editor, text)
    editor.reload()
    if not editor.page.locator(".pivotal-monitor").count():
        editor.open_panel("pivotal.runs")
    expect(editor.page.locator(".pivotal-runs")).to_contain_text("No run yet")


def start(editor: Editor, name: str) -> str:
    """Queue a run with previews and validation, and open the panel."""
    name = f"{name} {editor.renderer}"
    editor.load_prompt(watched(name))
    editor.queue()
    editor.open_panel("pivotal.runs")
    # Until the run begins the panel shows the one before, whose chart has points as well.
    editor.page.wait_for_function(
        "n => document.querySelector('.pivotal-run.chosen')?.dataset.run === n", arg=name
    )
    return name


def wait_for_state(editor: Editor, name: str, state: str) -> None:
    editor.page.wait_for_function(
        "([n, s]) => [...document.querySelectorAll('.pivotal-run')]"
        ".some(b => b.dataset.run === n && b.textContent.includes(s))",
        arg=[name, state],
    )


def wait_for_text(path: Path, text: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while text not in path.read_text():
        assert time.monotonic() < end, f"{text} is not in {path}"
        time.sleep(0.1)


@pytest.mark.usefixtures("new_page")
def test_a_run_is_watched_recovered_by_a_reload_and_asked(editor: Editor):
    """One run for all of it, since each takes a while to come up on a small machine."""
    name = start(editor, "watched")
    seen = wait_for_more(editor, POINTS)
    assert editor.page.locator(".pivotal-run.chosen").get_attribute("data-run") == name
    wait_for_more(editor, ".pivotal-spark", seen + 1)
    wait_for_more(editor, "canvas[data-chart=validation]", 0)
    editor.page.wait_for_function("document.querySelectorAll('.pivotal-row img').length >= 2")
    editor.shot("monitor")
    # The editor keeps its draft of the workflow a moment after a change.
    editor.page.wait_for_function(
        "JSON.stringify({...localStorage, ...sessionStorage}).includes('Pivotal_TrainConcepts')"
    )
    editor.reload()
    if not editor.page.locator(".pivotal-monitor").count():
        editor.open_panel("pivotal.runs")
    seen = wait_for_more(editor, POINTS, seen)
    wait_for_more(editor, ".pivotal-spark", seen)
    journal = editor.server.base / "output" / "pivotal" / name / "report.jsonl"
    editor.page.locator("[data-ask=checkpoint]").click()
    wait_for_text(journal, '"checkpoint": true')
    assert list((journal.parent / "checkpoints").glob("step_*.safetensors"))
    editor.page.locator("[data-ask=finish]").click()
    wait_for_state(editor, name, "finished")
    editor.server.wait_until_idle(timeout=120)
    assert (journal.parent / "bundle.safetensors").exists()
    editor.shot("finished")


def test_the_view_follows_a_trainer_inside_a_subgraph(editor: Editor):
    editor.load_prompt(training(f"inside {editor.renderer}"))
    editor.page.evaluate(
        """() => {
          const graph = window.app.graph
          const inner = graph.nodes.filter(n => n.type.startsWith('Pivotal_'))
          graph.convertToSubgraph(new Set(inner))
        }"""
    )
    editor.queue()
    editor.open_panel("pivotal.runs")
    wait_for_more(editor, POINTS)
    editor.page.evaluate(
        """() => {
          const node = window.app.graph.nodes.find(n => n.subgraph)
          window.app.canvas.openSubgraph(node.subgraph, node)
        }"""
    )
    wait_for_more(editor, ".pivotal-spark", 1)
    editor.shot("subgraph")


def test_a_run_ends_in_the_views_though_its_journal_cannot_be_read(editor: Editor):
    name = start(editor, "unread")
    wait_for_more(editor, POINTS)
    with refused(editor, JOURNAL, "The journal is gone."):
        editor.page.locator("[data-ask=finish]").click()
        wait_for_state(editor, name, "finished")
        editor.expect(".pivotal-facts").to_contain_text("The journal is gone.")
        editor.expect(".pivotal-line").to_contain_text("finished")
        editor.expect(".pivotal-line").to_contain_text("The journal is gone.")
        editor.shot("unread")
    editor.page.locator(".pivotal-run.chosen").click()
    editor.expect(".pivotal-facts").not_to_contain_text("The journal is gone.")
    editor.expect(".pivotal-line").not_to_contain_text("The journal is gone.")


def test_the_copy_of_a_trainer_shows_the_run_that_its_name_leads_to(editor: Editor):
    name = start(editor, "copied")
    wait_for_more(editor, POINTS)
    copy_and_paste(editor, "Pivotal_TrainConcepts")
    expect(editor.page.locator(".pivotal-line", has_text=name)).to_have_count(2)


@pytest.mark.usefixtures("new_page")
def test_a_list_of_runs_that_cannot_be_read_says_why_until_it_can(editor: Editor):
    name = start(editor, "listed")
    editor.server.interrupt()
    editor.server.wait_until_idle(timeout=120)
    with refused(editor, LIST, "The folder is gone."):
        editor.reload()
        editor.load_prompt(training(name))
        if not editor.page.locator(".pivotal-monitor").count():
            editor.open_panel("pivotal.runs")
        editor.expect(".pivotal-runs").to_contain_text("The folder is gone.")
        editor.expect(".pivotal-line").to_contain_text("The folder is gone.")
    # As after a break: the editor connects again by itself.
    editor.page.evaluate("() => window.app.api.socket.close()")
    editor.expect(".pivotal-runs").to_contain_text(name)
    editor.expect(".pivotal-runs").not_to_contain_text("The folder is gone.")
    editor.expect(".pivotal-line").to_contain_text(name)


def test_the_view_on_the_node_adds_nothing_to_the_saved_workflow(editor: Editor):
    editor.load_prompt(training("saved"))
    (saved,) = [n for n in editor.saved()["nodes"] if n["type"] == "Pivotal_TrainConcepts"]
    groups = editor.server.object_info()["Pivotal_TrainConcepts"]["input"]
    specs = [spec for group in ("required", "optional") for spec in groups[group].values()]
    kinds = ("INT", "FLOAT", "STRING", "COMBO", "BOOLEAN")
    widgets = [spec for spec in specs if isinstance(spec[0], list) or spec[0] in kinds]
    # The seed's "control after generate" has a value of its own.
    assert len(saved["widgets_values"]) == len(widgets) + 1
