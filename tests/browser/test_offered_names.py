"""The list of names in a prompt takes the keys that are meant for it, and no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser.acts import compose
from browser.graphs import node
from playwright.sync_api import Locator, expect

from harness.editor.editor import Editor
from harness.host.server import Server

NAMES = ("bowl", "cat", "cat_2", "cat_3", "owl")
LIST = ".pivotal-offer"
ROWS = f"{LIST} > div"
CHOSEN = f"{LIST} > .chosen"


@pytest.fixture(autouse=True)
def files(server: Server) -> Iterator[None]:
    """Embeddings among the host's files."""
    folder = server.base / "models" / "embeddings"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.pt" for name in NAMES]
    for path in paths:
        path.write_bytes(b"")
    yield
    for path in paths:
        path.unlink()


@pytest.fixture
def prompt(editor: Editor) -> Locator:
    """The field of a prompt, with the caret in it."""
    editor.load_prompt({"1": node("CLIPTextEncode", text="")})
    area = editor.page.locator("textarea").filter(visible=True).first
    # A click waits until the editor has put the field in its place.
    area.click()
    return area


def offer(editor: Editor, prompt: Locator, text: str) -> None:
    """Write `text` and wait for the list."""
    prompt.fill("")
    prompt.press_sequentially(text)
    expect(editor.page.locator(LIST)).to_be_visible()


def test_enter_and_tab_take_the_first_name_for_a_part_of_one(editor: Editor, prompt: Locator):
    for key in ("Enter", "Tab"):
        offer(editor, prompt, "a embedding:ca")
        expect(editor.page.locator(ROWS)).to_have_count(3)
        editor.shot("offer_part")
        prompt.press(key)
        expect(prompt).to_have_value("a embedding:cat")
        expect(editor.page.locator(LIST)).to_have_count(0)


def test_a_name_that_is_taken_is_not_followed_by_another_list(editor: Editor, prompt: Locator):
    offer(editor, prompt, "embedding:ca")
    prompt.press("Enter")
    editor.page.wait_for_timeout(1000)
    expect(editor.page.locator(LIST)).to_have_count(0)


def test_behind_a_whole_name_enter_and_tab_are_the_fields_own(editor: Editor, prompt: Locator):
    offer(editor, prompt, "embedding:cat")
    expect(editor.page.locator(ROWS)).to_have_count(2)
    expect(editor.page.locator(CHOSEN)).to_have_count(0)
    editor.shot("offer_whole")
    prompt.press("Enter")
    expect(prompt).to_have_value("embedding:cat\n")
    expect(editor.page.locator(LIST)).to_have_count(0)
    offer(editor, prompt, "embedding:cat")
    prompt.press("Tab")
    expect(prompt).not_to_be_focused()
    expect(prompt).to_have_value("embedding:cat")
    expect(editor.page.locator(LIST)).to_have_count(0)


def test_behind_a_whole_name_an_arrow_chooses_a_longer_one(editor: Editor, prompt: Locator):
    for key, name in {"ArrowDown": "cat_2", "ArrowUp": "cat_3"}.items():
        offer(editor, prompt, "embedding:cat")
        prompt.press(key)
        expect(editor.page.locator(CHOSEN)).to_have_attribute("data-name", name)
        prompt.press("Enter")
        expect(prompt).to_have_value(f"embedding:{name}")


def test_the_list_follows_each_key_at_once(editor: Editor, prompt: Locator):
    offer(editor, prompt, "embedding:")
    # Names of bundles that were loaded on this server are offered as well.
    for name in NAMES:
        expect(editor.page.locator(f'{ROWS}[data-name="{name}"]')).to_have_count(1)
    editor.page.route("**/embeddings", lambda route: route.fulfill(json=[]))
    prompt.press_sequentially("ow")
    prompt.press("Enter")
    expect(prompt).to_have_value("embedding:owl")


def test_control_and_enter_queue_the_graph_as_it_is(editor: Editor, prompt: Locator):
    answer = {"prompt_id": "none", "number": 1, "node_errors": {}}
    editor.page.route("**/prompt", lambda route: route.fulfill(json=answer))
    for text in ("embedding:ca", "embedding:cat"):
        offer(editor, prompt, text)
        with editor.page.expect_request("**/prompt") as sent:
            prompt.press("Control+Enter")
        assert sent.value.post_data_json["prompt"]["1"]["inputs"]["text"] == text
        expect(prompt).to_have_value(text)


def test_shortcuts_with_arrows_and_tab_stay_the_hosts(editor: Editor, prompt: Locator):
    offer(editor, prompt, "embedding:ca")
    prompt.press("Control+ArrowUp")
    expect(prompt).to_have_value("embedding:(ca:1.05)")
    offer(editor, prompt, "embedding:ca")
    prompt.press("Shift+Tab")
    expect(prompt).not_to_be_focused()
    expect(prompt).to_have_value("embedding:ca")


def test_the_key_that_confirms_a_composed_word_takes_no_name(editor: Editor, prompt: Locator):
    offer(editor, prompt, "embedding:")
    compose(editor, "ca")
    expect(editor.page.locator(ROWS)).to_have_count(3)
    prompt.press("Enter")
    assert prompt.input_value().startswith("embedding:ca")
    assert "cat" not in prompt.input_value()


@pytest.mark.parametrize("way", ["Home", "ArrowLeft", "click", "Shift+ArrowLeft"])
def test_the_list_closes_when_the_caret_moves(editor: Editor, prompt: Locator, way: str):
    offer(editor, prompt, "first\nembedding:ca")
    if way == "click":
        prompt.click(position={"x": 12, "y": 12})
    else:
        prompt.press(way)
    expect(editor.page.locator(LIST)).to_have_count(0)
    prompt.press("Enter")
    assert "cat" not in prompt.input_value()
