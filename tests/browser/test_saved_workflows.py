"""Every workflow that was ever shipped opens without a missing node and gives what it gave then."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.editor.editor import Editor
from harness.host.server import Server, failure
from harness.host.workflow import with_values
from harness.tools import examples
from harness.tools.environment import PACK

FOLDER = Path(__file__).resolve().parents[1] / "workflows"
EXPECTED = FOLDER / "expected"
SAVED = examples.workflows(FOLDER)
STEPS = 3
TIMEOUT = 900.0
# The order of sums differs from one processor to another.
LOSS_TOLERANCE, PIXEL_TOLERANCE = 1e-3, 3.0


@pytest.fixture(scope="module")
def world(server: Server) -> None:
    from harness.tools.demo_world import demo_world

    demo_world(server.base, examples.CHECKPOINT, examples.PICTURES, examples.CAPTIONER)


def small(path: Path) -> dict[str, dict[str, Any]]:
    """Few steps on the small model; each file has runs of its own.

    The second renderer finds those of the first, unless a setting comes to the server otherwise.
    """
    changes = examples.short(STEPS)
    for place, run in enumerate(examples.RUNS):
        changes[run]["run_name"] = f"{path.stem} {place}"
    return changes


def run(editor: Editor) -> dict[str, Any]:
    """Press Run and wait for the end; the prompt's history."""
    known = set(editor.server.get("/history"))
    editor.queue()
    editor.server.wait_until_idle(timeout=TIMEOUT)
    (new,) = set(editor.server.get("/history")) - known
    return editor.server.history(new)


def pictures(server: Server, history: dict[str, Any]) -> list[Path]:
    """The pictures that a run saved, by the order of their nodes."""
    shown = [history["outputs"][key].get("images", []) for key in sorted(history["outputs"])]
    saved = [one for images in shown for one in images if one["type"] == "output"]
    return [server.base / "output" / one["subfolder"] / one["filename"] for one in saved]


def losses(editor: Editor, path: Path) -> list[float]:
    """Those of all runs of a file, one after the other; a run that is another adds its own."""
    runs = editor.server.base / "output" / "pivotal"
    journals = sorted(runs.glob(f"{path.stem} [0-9]*/report.jsonl"))
    return [loss for journal in journals for loss in examples.losses(journal)]


def difference(one: Path, other: Path) -> float:
    """Mean absolute difference of two pictures, in steps of 0 to 255."""
    with Image.open(one) as a, Image.open(other) as b:
        assert a.size == b.size
        left, right = (np.asarray(x.convert("RGB"), dtype=np.float64) for x in (a, b))
    return float(np.abs(left - right).mean())


def missing(editor: Editor) -> list[str]:
    """Types of the open workflow that the editor does not know."""
    return editor.page.evaluate(
        "() => app.graph.nodes.map(n => n.type)"
        ".filter(t => !(t in window.LiteGraph.registered_node_types))"
    )


def update(editor: Editor, path: Path, saved: list[Path]) -> None:
    EXPECTED.mkdir(exist_ok=True)
    (EXPECTED / f"{path.stem}.losses").write_text(json.dumps(losses(editor, path)) + "\n")
    for number, picture in enumerate(saved):
        with Image.open(picture) as found:
            # Without the workflow that the host writes into it.
            found.convert("RGB").save(EXPECTED / f"{path.stem} {number}.png", optimize=True)


def same_as_then(editor: Editor, path: Path, saved: list[Path]) -> None:
    then = json.loads((EXPECTED / f"{path.stem}.losses").read_text(encoding="utf-8"))
    assert losses(editor, path) == pytest.approx(then, rel=LOSS_TOLERANCE), path.name
    kept = sorted(EXPECTED.glob(f"{path.stem} [0-9].png"))
    assert len(saved) == len(kept), path.name
    for now, before in zip(saved, kept, strict=True):
        assert difference(now, before) <= PIXEL_TOLERANCE, path.name


@pytest.mark.timeout(1800)
def test_every_saved_workflow_opens_and_runs_to_the_same_outputs(editor: Editor, world: None):
    info = editor.server.object_info()
    for path in SAVED:
        saved = json.loads(path.read_text(encoding="utf-8"))
        # A person presses R: the files of the last run are in the lists then.
        editor.page.evaluate("() => app.refreshComboInNodes()")
        editor.load(with_values(saved, info, small(path)))
        assert missing(editor) == [], path.name
        history = run(editor)
        assert failure(history) is None, path.name
        assert all(shown for shown in history["outputs"].values()), path.name
        show_all(editor)
        editor.shot(path.stem)
        found = pictures(editor.server, history)
        if os.environ.get("UPDATE_WORKFLOWS") and editor.renderer == "classic":
            update(editor, path, found)
        same_as_then(editor, path, found)


def show_all(editor: Editor) -> None:
    """Fit the graph into the window, and give the page time to draw it."""
    editor.command("Comfy.Canvas.FitView")
    editor.settle()


def test_the_examples_of_today_are_among_the_saved_ones():
    kept = {path.read_text(encoding="utf-8") for path in SAVED}
    assert {
        path.name for path in examples.workflows() if path.read_text("utf-8") not in kept
    } == set()


@pytest.mark.parametrize("path", examples.workflows(), ids=lambda path: path.stem)
def test_the_nodes_of_an_example_say_where_they_come_from(path: Path):
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    for node in nodes:
        ours = node["type"].startswith("Pivotal_")
        assert node["properties"]["cnr_id"] == ("pivotal-training" if ours else "comfy-core")
        assert node["properties"]["ver"]
    assert any(node["type"] == "MarkdownNote" for node in nodes)


def test_every_help_page_is_where_the_editor_looks_for_it(server: Server):
    ids = [name for name in server.object_info() if name.startswith("Pivotal_")]
    assert len(ids) > 10
    for name in ids:
        page = server.url(f"/extensions/{PACK}/docs/{name}.md")
        with urllib.request.urlopen(page, timeout=60) as answer:
            assert answer.read().startswith(b"# "), name
