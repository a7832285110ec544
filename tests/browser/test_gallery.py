"""The gallery in a real browser: captions are edited, replaced, undone, and found again."""

from __future__ import annotations

import itertools
import json
import re
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.acts import compose, copy_and_paste, refused, unreachable
from browser.graphs import node
from PIL import Image
from playwright.sync_api import expect

from harness.editor.editor import Editor
from harness.host.server import Server

COUNT = 60
PATIENCE = 120_000
"""Milliseconds: a busy machine takes its time."""
names = (f"gallery {number}" for number in itertools.count())


@pytest.fixture
def folder(server: Server) -> Iterator[Path]:
    path = server.base / "input" / next(names)
    path.mkdir(parents=True)
    for number in range(COUNT):
        color = (4 * number % 256, 90, 255 - 3 * number)
        Image.new("RGB", (96, 80), color).save(path / f"{number}.png")
        (path / f"{number}.txt").write_text(f"a red TOK number {number}", encoding="utf-8")
    yield path
    server.wait_until_idle(timeout=120)


def graph(folder: Path) -> dict[str, Any]:
    return {
        "1": node("Pivotal_LoadDataset", folder=folder.name),
        "2": node("Pivotal_LabelDataset", dataset=["1", 0], placeholder="TOK"),
        "3": node("Pivotal_ReviewDataset", dataset=["2", 0]),
        "4": node("Pivotal_CaptionStatistics", dataset=["3", 0]),
    }


def open_gallery(editor: Editor, folder: Path) -> None:
    editor.load_prompt(graph(folder))
    editor.queue()
    status(editor, f"{COUNT} of {COUNT} images")


def card(editor: Editor, name: str) -> Any:
    label = editor.page.get_by_text(name, exact=True)
    return editor.page.locator(".pivotal-card", has=label).first


def write(editor: Editor, name: str, text: str) -> None:
    press(card(editor, f"{name}.png").locator(".pivotal-card-marked"))
    area = card(editor, f"{name}.png").locator("textarea")
    area.fill(text)
    area.press("Enter")


def press(button: Any) -> None:
    """A click wherever the node lies on the canvas, which may be outside of the window."""
    button.evaluate("element => element.click()")


def hidden(editor: Editor) -> bool:
    """Whether the widget that only the gallery writes is out of sight."""
    fields = editor.page.locator("input:visible").evaluate_all("all => all.map(one => one.value)")
    (widget,) = editor.page.evaluate(
        "() => app.graph.nodes.flatMap(n => n.widgets ?? [])"
        ".filter(w => w.name === 'review').map(w => [w.hidden, w.value])"
    )
    return widget[0] and widget[1] not in fields


def status(editor: Editor, text: str) -> None:
    editor.expect(".pivotal-gallery-status").to_contain_text(text, timeout=PATIENCE)


def journal(server: Server) -> list[dict[str, Any]]:
    folder = server.base / "user" / "pivotal" / "reviews"
    newest = max(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(line) for line in newest.read_text(encoding="utf-8").splitlines()]


@pytest.mark.usefixtures("new_page")
def test_captions_are_edited_replaced_undone_and_found_again(
    editor: Editor, server: Server, folder: Path
):
    open_gallery(editor, folder)
    for number in range(3):
        write(editor, str(number), f"my own {number} of TOK")
        status(editor, f"revision {number + 1}")
    editor.expect(".pivotal-card.edited").to_have_count(3, timeout=PATIENCE)
    bar = editor.page.locator(".pivotal-gallery-bar").nth(1)
    bar.get_by_placeholder("find").fill("red")
    bar.get_by_placeholder("replace with").fill("blue")
    press(bar.get_by_role("button", name="Preview"))
    editor.expect(".pivotal-gallery-preview").to_contain_text(
        f"{COUNT - 3} captions would change", timeout=PATIENCE
    )
    editor.shot("gallery_preview")
    assert hidden(editor)
    assert len(journal(server)) == 3
    press(bar.get_by_role("button", name="Apply"))
    status(editor, "revision 4")
    assert "a blue TOK number 4" in card(editor, "4.png").inner_text()
    assert len(journal(server)[3]["changes"]) == COUNT - 3
    press(editor.page.locator(".pivotal-gallery-bar button", has_text="Undo"))
    status(editor, "revision 5")
    assert "a red TOK number 4" in card(editor, "4.png").inner_text()
    editor.shot("gallery")
    # Files are as they were: edits live in the journal.
    for number in range(COUNT):
        assert (folder / f"{number}.txt").read_text() == f"a red TOK number {number}"
    saved = json.dumps(editor.saved())
    assert "my own" not in saved and "@5" in saved
    editor.reload()
    open_gallery(editor, folder)
    assert "my own 1 of TOK" in card(editor, "1.png").inner_text()
    status(editor, "revision 5")


def test_only_cards_in_sight_are_in_the_page_and_filters_pick(editor: Editor, folder: Path):
    open_gallery(editor, folder)
    shown = editor.page.locator(".pivotal-card").count()
    assert 0 < shown < COUNT
    editor.page.get_by_placeholder("caption contains").fill("number 59")
    status(editor, f"1 of {COUNT} images")
    editor.expect(".pivotal-card mark").to_have_text("TOK", timeout=PATIENCE)
    press(card(editor, "59.png").locator("input[type=checkbox]"))
    status(editor, "revision 1")
    editor.page.get_by_placeholder("caption contains").fill("")
    editor.page.locator(".pivotal-gallery select").select_option("off")
    status(editor, f"1 of {COUNT} images")


def test_a_file_that_changed_meanwhile_is_shown_before_anything_is_overwritten(
    editor: Editor, folder: Path
):
    open_gallery(editor, folder)
    (folder / "0.txt").write_text("by another program", encoding="utf-8")
    write(editor, "0", "mine")
    status(editor, "was changed meanwhile")
    conflict = card(editor, "0.png")
    assert "File changed: by another program" in conflict.inner_text()
    assert conflict.locator("textarea").input_value() == "mine"
    editor.shot("gallery_conflict")
    expect(conflict.locator("textarea")).to_be_focused()
    press(conflict.get_by_role("button", name="Keep mine"))
    status(editor, "revision 1")
    assert "mine" in card(editor, "0.png").inner_text()
    editor.expect(".pivotal-card-conflict").to_have_count(0, timeout=PATIENCE)
    assert (folder / "0.txt").read_text() == "by another program"
    # The browser itself notes the refused edit, and nothing else went wrong.
    (noted,) = editor.problems
    assert "409 (Conflict)" in noted
    editor.problems.clear()


def shown(editor: Editor, name: str) -> Any:
    return card(editor, f"{name}.png").locator(".pivotal-card-marked")


def test_captions_are_reached_opened_and_saved_by_the_keyboard(editor: Editor, folder: Path):
    open_gallery(editor, folder)
    page = editor.page
    card(editor, "0.png").locator("input").focus()
    page.keyboard.press("Tab")
    expect(shown(editor, "0")).to_be_focused()
    ring = "element => getComputedStyle(element).outlineStyle"
    assert shown(editor, "0").evaluate(ring) == "solid"
    editor.shot("gallery_focus")
    for revision, key in enumerate(("Enter", "Space", "F2"), start=1):
        page.keyboard.press(key)
        area = card(editor, "0.png").locator("textarea")
        expect(area).to_be_focused()
        page.keyboard.press("End")
        page.keyboard.type(f", {revision}")
        page.keyboard.press("Enter")
        status(editor, f"revision {revision}")
        # The card is another one now, in the same place of the order.
        expect(shown(editor, "0")).to_be_focused()
    expect(shown(editor, "0")).to_have_text("a red TOK number 0, 1, 2, 3")
    page.keyboard.press("Enter")
    page.keyboard.type("not to be kept")
    page.keyboard.press("Escape")
    expect(shown(editor, "0")).to_have_text("a red TOK number 0, 1, 2, 3")
    page.keyboard.press("Tab")
    expect(card(editor, "1.png").locator("input")).to_be_focused()
    page.keyboard.press("Space")
    status(editor, "revision 4")
    expect(card(editor, "1.png").locator("input")).to_be_focused()


def test_the_key_that_confirms_a_composed_word_does_not_end_the_caption(
    editor: Editor, folder: Path
):
    open_gallery(editor, folder)
    shown(editor, "0").focus()
    editor.page.keyboard.press("Enter")
    area = card(editor, "0.png").locator("textarea")
    editor.page.keyboard.press("Control+A")
    compose(editor, "猫")
    editor.page.keyboard.press("Enter")
    expect(area).to_be_focused()
    status(editor, "revision 0")
    area.fill("猫 TOK")
    editor.page.keyboard.press("Enter")
    status(editor, "revision 1")
    expect(shown(editor, "0")).to_have_text("猫 TOK")


def test_a_pasted_gallery_shows_the_pictures_of_the_first(editor: Editor, folder: Path):
    open_gallery(editor, folder)
    write(editor, "0", "mine")
    status(editor, "revision 1")
    copy_and_paste(editor, "Pivotal_ReviewDataset")
    both = editor.page.locator(".pivotal-gallery-status")
    expect(both).to_contain_text([f"{COUNT} of {COUNT}"] * 2, timeout=PATIENCE)


def test_a_dataset_goes_to_the_node_at_its_whole_path_and_to_none_of_the_same_number(
    editor: Editor, folder: Path
):
    """Numbers repeat inside and outside of subgraphs."""
    open_gallery(editor, folder)
    write(editor, "0", "mine")
    status(editor, "revision 1")
    shown = editor.page.evaluate(
        """async () => {
          const { api } = await import('/scripts/api.js')
          const node = window.app.graph.nodes.find(n => n.type === 'Pivotal_ReviewDataset')
          const widget = node.widgets.find(w => w.name === 'review')
          const dataset = widget.value.slice(0, 16)
          const filled = async (path) => {
            widget.value = ''
            const detail = { node: path, dataset }
            api.dispatchEvent(new CustomEvent('pivotal.review', { detail }))
            await new Promise(done => setTimeout(done, 1000))
            return widget.value.startsWith(dataset)
          }
          const first = await filled(`999:${node.id}`)
          return [dataset.length, first, await filled(String(node.id))]
        }"""
    )
    assert shown == [16, False, True]


def test_an_undo_that_is_refused_says_why(editor: Editor, folder: Path):
    open_gallery(editor, folder)
    with refused(editor, re.compile("/undo$"), "The disk is full."):
        press(editor.page.locator(".pivotal-gallery-bar button", has_text="Undo"))
        status(editor, "The disk is full.")


def test_what_is_written_while_the_server_is_away_is_not_lost(editor: Editor, folder: Path):
    open_gallery(editor, folder)
    one, other = card(editor, "0.png"), card(editor, "1.png")
    with unreachable(editor, re.compile("/pivotal/datasets/")):
        write(editor, "0", "mine")
        status(editor, "The server cannot be reached.")
        press(other.locator("input[type=checkbox]"))
        expect(other.locator("input[type=checkbox]")).to_be_checked()
        expect(one.locator("textarea")).to_have_value("mine")
        expect(one.locator("textarea")).to_be_focused()
        editor.shot("gallery_away")
        one.locator("textarea").blur()
        expect(one.locator("textarea")).to_be_visible()
    one.locator("textarea").press("Enter")
    status(editor, "revision 1")
    expect(shown(editor, "0")).to_have_text("mine")
    expect(shown(editor, "0")).to_be_focused()


def test_no_text_of_a_workflow_leads_to_another_route(editor: Editor, folder: Path):
    asked: list[str] = []
    editor.page.on("request", lambda request: asked.append(request.url))
    for review in ("../../../../internal/logs?x=@0", "..@1", "0123456789abcdef/../../x@2"):
        prompt = graph(folder)
        prompt["3"]["inputs"]["review"] = review
        editor.load_prompt(prompt)
        press(editor.page.locator(".pivotal-gallery-bar button", has_text="Undo"))
    made = editor.page.evaluate(
        "import('/extensions/pivotal-training/editor/api.js').then(({ route }) => "
        "['a/b', '..', '.', 'é?x#y'].map((name) => "
        "{ try { return route`runs/${name}?after=${1}`; } catch { return null; } }))"
    )
    assert made == ["runs/a%2Fb?after=1", None, None, "runs/%C3%A9%3Fx%23y?after=1"]
    assert [url for url in asked if "internal" in url or "/pivotal/datasets" in url] == []


def test_paths_and_other_pages_are_refused(server: Server):
    for path in ("..%2f..%2fetc", "%2fetc%2fpasswd", "a" * 300, "0123456789abcdef"):
        with pytest.raises(urllib.error.HTTPError) as error:
            server.get(f"/pivotal/datasets/{path}/items")
        assert error.value.code in (400, 404)
