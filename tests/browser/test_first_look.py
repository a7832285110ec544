"""What a newcomer opens: the help of each node from the node, and the templates from their list."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from harness.editor.editor import Editor
from harness.host.workflow import widgets
from harness.tools import examples
from harness.tools.environment import PACK

ALONE = """async names => {
    app.graph.clear();
    const nodes = names.map(name => LiteGraph.createNode(name));
    for (const node of nodes) {
        app.graph.add(node);
        node.pos = [300, 300];
    }
    await new Promise(done => setTimeout(done, 200));
    return nodes.map(node => (node.widgets ?? []).map(w => w.name));
}"""
# A place on the title of the only node, in the window's pixels.
TITLE = """() => app.canvasPosToClientPos([app.graph.nodes[0].pos[0] + 60,
    app.graph.nodes[0].pos[1] - 15])"""
LOADED = "image => image.complete && image.naturalWidth > 100"
COVERED = """() => {
    const boxes = app.graph.nodes.map(n => 
        [n.title, n.pos[0], n.pos[1] - 30, n.size[0], n.size[1] + 30]);
    const meet = (a, b) => a[1] < b[1] + b[3] && b[1] < a[1] + a[3]
        && a[2] < b[2] + b[4] && b[2] < a[2] + a[4];
    return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b => meet(a, b)).map(b => [a, b]));
}"""


def ours(editor: Editor) -> dict[str, dict]:
    """What the server says of the pack's nodes, by their ids."""
    info = editor.server.object_info()
    return {name: one for name, one in info.items() if name.startswith("Pivotal_")}


def forgive_missing(editor: Editor) -> None:
    """Files that the editor asks for in vain: help in the user's language, bundles to come."""
    editor.problems[:] = [one for one in editor.problems if "status of 404" not in one]


@pytest.mark.timeout(900)
def test_the_help_of_every_node_opens_from_it_with_its_picture(editor: Editor):
    for name, info in ours(editor).items():
        editor.page.evaluate(ALONE, [name])
        editor.page.mouse.click(*editor.page.evaluate(TITLE))
        editor.shot("help of one")
        editor.page.get_by_test_id("info-button").click(timeout=30_000)
        title = editor.page.locator(".node-help-content h1").first
        expect(title).to_have_text(info["display_name"])
        picture = editor.page.locator(f".node-help-content img[src*='{name}.webp']")
        editor.page.wait_for_function(LOADED, arg=picture.element_handle())
        if name == "Pivotal_TrainConcepts":
            editor.shot("help")
    forgive_missing(editor)


def test_the_editor_orders_widgets_as_saved_workflows_have_them(editor: Editor):
    known = ours(editor)
    for name, shown in zip(known, editor.page.evaluate(ALONE, list(known)), strict=True):
        wanted = [widget for widget, _, _ in widgets(known[name])]
        assert [one for one in shown if one in wanted] == wanted, name


@pytest.mark.parametrize("path", examples.workflows(), ids=lambda path: path.stem)
def test_a_template_opens_from_the_list(editor: Editor, path):
    editor.command("Comfy.BrowseTemplates")
    editor.page.get_by_text(PACK, exact=True).first.click()
    card = editor.page.get_by_test_id(f"template-workflow-{path.stem}")
    card.wait_for()
    editor.shot("templates")
    card.click()
    editor.page.wait_for_function("() => app.graph.nodes.some(n => n.type.startsWith('Pivotal_'))")
    types = editor.page.evaluate("() => app.graph.nodes.map(n => n.type)")
    assert set(types) <= editor.server.object_info().keys() | {"MarkdownNote"}
    editor.settle()
    editor.command("Comfy.Canvas.FitView")
    editor.settle()
    editor.shot(f"template {path.stem}")
    forgive_missing(editor)
    assert editor.page.evaluate(COVERED) == []
