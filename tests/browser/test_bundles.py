"""A chosen bundle in the editor: its names, thumbnail and triggers, and names in prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from browser.acts import copy_and_paste
from PIL import Image
from playwright.sync_api import expect
from safetensors.torch import save_file

from harness.editor.editor import Editor
from harness.host.server import Server
from pack.bundles.bundle import Bundle, Entry
from pack.bundles.save import Container, save_bundle
from pack.bundles.table_picture import data_uri

WORKFLOW = '{"last_node_id": 1, "last_link_id": 0, "nodes": [{"id": 1, "type": "Note", "pos": [90, 90], "size": [200, 90], "flags": {}, "order": 0, "mode": 0, "inputs": [], "outputs": [], "properties": {}, "widgets_values": ["from the bundle"]}], "links": [], "groups": [], "config": {}, "extra": {}, "version": 0.4}'  # noqa: E501


def color(rgb: tuple[int, int, int]) -> str:
    return data_uri(Image.new("RGB", (256, 256), rgb))


@pytest.fixture(autouse=True)
def files(server: Server) -> Iterator[Path]:
    """Two bundles among the server's LoRAs."""
    folder = server.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    made = {"two": ("surtr", "my cat"), "other": ("dog",)}
    for stem, names in made.items():
        bundle = Bundle(
            family="sd15",
            lora={},
            embeddings={name: {"clip_l": torch.ones(2, 768)} for name in names},
            entries=tuple(
                Entry(name=name, initial="a thing", thumbnail=color((200, 60, 60)))
                for name in names
            ),
            thumbnail=color((60, 90, 200)),
            workflow=WORKFLOW,
        )
        path = folder / f"{stem}.safetensors"
        path.unlink(missing_ok=True)
        save_bundle(bundle, path, Container.A1111, torch.float16)
    yield folder


def graph(file: str = "loras/two.safetensors", names: str = "") -> dict:
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
        "2": {
            "class_type": "Pivotal_LoadBundle",
            "inputs": {
                "model": ["1", 0],
                "clip": ["1", 1],
                "file": file,
                "strength_model": 1.0,
                "strength_clip": 1.0,
                "names": names,
            },
        },
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a photo of ", "clip": ["2", 1]}},
    }


def test_the_node_shows_names_and_thumbnail_and_copies_triggers(editor: Editor):
    editor.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    editor.load_prompt(graph())
    view = editor.page.locator(".pivotal-bundle")
    expect(view).to_contain_text("surtr")
    expect(view.locator("button.pivotal-copy")).to_have_count(3)
    assert view.locator("img").count() == 3
    editor.shot("bundle")
    for label, text in {
        "my cat": "embedding:my cat",
        "copy all": "embedding:surtr, embedding:my cat",
    }.items():
        view.locator("button.pivotal-copy", has_text=label).evaluate("b => b.click()")
        editor.page.wait_for_function(
            "async t => (await navigator.clipboard.readText()) === t", arg=text
        )


def test_what_is_copied_is_one_line_whatever_the_file_calls_it(editor: Editor, files: Path):
    """A line end in what is pasted into a terminal runs it."""
    editor.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    rows = {"bundle_emb.cat\nrm -r x\u2028\x1b[2J.clip_l": torch.ones(1, 768)}
    save_file(rows, files / "lines.safetensors")
    editor.load_prompt(graph("loras/lines.safetensors"))
    editor.page.locator("button.pivotal-copy").evaluate("b => b.click()")
    editor.page.wait_for_function(
        "async t => (await navigator.clipboard.readText()) === t",
        arg="embedding:cat rm -r x [2J",
    )


def test_another_file_shows_its_own_names(editor: Editor):
    editor.load_prompt(graph())
    expect(editor.page.locator(".pivotal-bundle")).to_contain_text("surtr")
    editor.page.evaluate(
        """() => {
          const node = window.app.graph.nodes.find((n) => n.type === "Pivotal_LoadBundle");
          const widget = node.widgets.find((w) => w.name === "file");
          widget.value = "loras/other.safetensors";
          widget.callback(widget.value);
        }"""
    )
    expect(editor.page.locator(".pivotal-bundle")).to_contain_text("dog")
    expect(editor.page.locator(".pivotal-bundle")).not_to_contain_text("surtr")


@pytest.mark.parametrize("kind", ["LoadBundle", "OpenBundle", "ConvertBundle"])
def test_a_pasted_node_shows_the_names_of_its_own_file(editor: Editor, kind: str):
    chosen = {"class_type": f"Pivotal_{kind}", "inputs": {"file": "loras/two.safetensors"}}
    editor.load_prompt({"1": chosen})
    views = editor.page.locator(".pivotal-bundle")
    expect(views).to_contain_text(["surtr"])
    copy_and_paste(editor, f"Pivotal_{kind}")
    expect(views).to_contain_text(["surtr", "surtr"])
    editor.shot(f"pasted_{kind}")


def test_the_view_adds_nothing_to_the_saved_workflow(editor: Editor):
    editor.load_prompt(graph())
    expect(editor.page.locator(".pivotal-bundle")).to_contain_text("surtr")
    (node,) = [n for n in editor.saved()["nodes"] if n["type"] == "Pivotal_LoadBundle"]
    assert node["widgets_values"][:4] == ["loras/two.safetensors", 1, 1, ""]
    assert len(node["widgets_values"]) == 10


def test_names_of_loaded_bundles_are_offered_in_a_prompt(editor: Editor):
    editor.load_prompt(graph(names="surtr = flame"))
    expect(editor.page.locator(".pivotal-bundle")).to_contain_text("surtr")
    area = editor.page.locator("textarea").filter(visible=True)
    prompt = next(a for a in area.all() if a.input_value() == "a photo of ")
    prompt.focus()
    editor.page.keyboard.press("End")
    editor.page.keyboard.type("embedding:")
    offered = editor.page.locator(".pivotal-offer > div")
    expect(offered).to_have_count(2)
    assert {one.get_attribute("data-name") for one in offered.all()} == {"flame", "my cat"}
    editor.shot("offer")
    editor.page.keyboard.type("fl")
    expect(offered).to_have_count(1)
    editor.page.keyboard.press("Enter")
    assert prompt.input_value() == "a photo of embedding:flame"
    (node,) = [n for n in editor.saved()["nodes"] if n["type"] == "CLIPTextEncode"]
    assert node["widgets_values"] == ["a photo of embedding:flame"]


def test_dropping_the_file_gives_its_graph_back(editor: Editor, files: Path):
    editor.load_prompt(graph())
    content = list((files / "two.safetensors").read_bytes())
    editor.page.evaluate(
        """bytes => window.app.handleFile(
             new File([new Uint8Array(bytes)], "two.safetensors"))""",
        content,
    )
    editor.page.wait_for_function("window.app.graph.nodes.some((n) => n.type === 'Note')")
    (note,) = editor.saved()["nodes"]
    assert note["widgets_values"] == ["from the bundle"]


def test_the_route_knows_listed_files_alone(server: Server):
    assert server.get("/pivotal/bundle?file=loras/two.safetensors")["names"][0]["name"] == "surtr"
    for file in ("", "loras/../../x.safetensors", "/etc/passwd", "loras/none.safetensors"):
        with pytest.raises(Exception, match="404|no such bundle"):
            server.get(f"/pivotal/bundle?file={file}")
