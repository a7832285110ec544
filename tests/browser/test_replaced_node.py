"""A saved workflow with a retired node: the editor offers the heir, and a run uses it at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from harness.editor.editor import Editor
from harness.host.server import Server, failure
from harness.tools.environment import PACK, ROOT, link
from pack.nodes.replacements import Retired

RENDERERS = ("classic", "nodes2")
FOLDER = "harness_folder"
GONE = Retired(
    old="Pivotal_HarnessGone",
    new="Pivotal_LoadDataset",
    widgets=("place",),
    inputs={"folder": "place"},
    values={"caption_extension": ".txt", "default_caption": "", "repeats": 1},
    outputs=(0,),
)
# A pack of one file, loaded by the host beside ours, that retires a node through the same call.
RETIRING = """
from comfy_api.latest import ComfyAPI, ComfyExtension, io

class Extension(ComfyExtension):
    async def on_load(self):
        await ComfyAPI().node_replacement.register(io.NodeReplace(**{fields!r}))

    async def get_node_list(self):
        return []

async def comfy_entrypoint():
    return Extension()
"""
WORKFLOW = {
    "id": "6d6e0f3c-7a57-4f2b-8f30-0d9e51c7a0f1", "revision": 0, "last_node_id": 2,
    "last_link_id": 1, "links": [[1, 1, 0, 2, 0, "PIVOTAL_DATASET"]], "groups": [], "config": {},
    "extra": {}, "version": 0.4,
    "nodes": [
        {"id": 1, "type": GONE.old, "pos": [100, 200], "size": [300, 100], "flags": {}, "order": 0,
         "mode": 0, "inputs": [], "properties": {"Node name for S&R": GONE.old,
         "cnr_id": PACK, "ver": "0.0.1"}, "widgets_values": [FOLDER],
         "outputs": [{"name": "dataset", "type": "PIVOTAL_DATASET", "links": [1]}]},
        {"id": 2, "type": "PreviewAny", "pos": [500, 200], "size": [300, 200], "flags": {},
         "order": 1, "mode": 0, "inputs": [{"name": "source", "type": "*", "link": 1}],
         "outputs": [{"name": "STRING", "type": "STRING", "links": []}],
         "properties": {"Node name for S&R": "PreviewAny"}, "widgets_values": []},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def retiring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the pack, a retired node, and a folder of one picture."""
    from PIL import Image

    base = tmp_path_factory.mktemp("retiring")
    link(ROOT, base / "custom_nodes" / PACK)
    fields = vars(GONE.replacement())
    text = RETIRING.replace("{fields!r}", repr(fields))
    (base / "custom_nodes" / "retiring.py").write_text(text, encoding="utf-8")
    folder = base / "input" / FOLDER
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64), (200, 90, 20)).save(folder / "one.png")
    host = Path(os.environ["PIVOTAL_COMFYUI"])
    with Server(Path(sys.executable), host, base, ["--cpu"]) as server:
        yield server


@pytest.mark.parametrize("renderer", RENDERERS)
def test_the_editor_puts_the_heir_in_place(retiring: Server, browser: Browser, renderer: str):
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    editor = Editor(page, retiring, renderer).open()
    editor.load(WORKFLOW)
    page.get_by_test_id("error-overlay-see-errors").click()
    group = page.get_by_test_id("error-group-swap-nodes")
    expect(group).to_contain_text(GONE.old)
    expect(group).to_contain_text(GONE.new)
    editor.shot("retired")
    group.get_by_role("button", name="Replace Node").click()
    page.wait_for_function("t => app.graph.nodes.some(n => n.type === t)", arg=GONE.new)
    editor.shot("replaced")
    saved = editor.saved()
    (heir,) = (node for node in saved["nodes"] if node["type"] == GONE.new)
    assert heir["widgets_values"][0] == FOLDER
    assert heir["outputs"][0]["links"] == [link[0] for link in saved["links"]] != []
    assert not [node for node in saved["nodes"] if node["type"] == GONE.old]
    editor.queue()
    retiring.wait_until_idle(timeout=600)
    page.close()


def test_a_queued_workflow_runs_with_the_heir(retiring: Server):
    prompt = {
        "1": {"class_type": GONE.old, "inputs": {"place": FOLDER}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    history = retiring.run(prompt, timeout=600)
    assert failure(history) is None
    assert "Dataset" in history["outputs"]["2"]["text"][0]
