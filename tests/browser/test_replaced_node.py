"""A saved workflow with a retired node: the editor offers the heir, and a run uses it at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from harness.editor import Editor
from harness.environment import PACK, ROOT, link
from harness.server import Server, failure
from pack.nodes.replacements import Retired

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
         "cnr_id": PACK, "ver": "0.0.1"}, "widgets_values": ["harness_folder"],
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
    folder = base / "input" / "harness_folder"
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64), (200, 90, 20)).save(folder / "one.png")
    host = Path(os.environ["PIVOTAL_COMFYUI"])
    with Server(Path(sys.executable), host, base, ["--cpu"]) as server:
        yield server


@pytest.mark.parametrize("renderer", ["classic", "nodes2"])
def test_the_editor_offers_the_heir(retiring: Server, browser: Browser, renderer: str):
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    editor = Editor(page, retiring, renderer).open()
    editor.load(WORKFLOW)
    page.get_by_text("replac", exact=False).first.wait_for()
    editor.shot("replaced")
    page.close()


def test_a_queued_workflow_runs_with_the_heir(retiring: Server):
    prompt = {
        "1": {"class_type": GONE.old, "inputs": {"place": "harness_folder"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    history = retiring.run(prompt, timeout=600)
    assert failure(history) is None
    assert "Dataset" in history["outputs"]["2"]["text"][0]
