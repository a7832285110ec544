"""The words that people know find the node that they mean."""

from __future__ import annotations

from playwright.sync_api import expect

from harness.editor.editor import Editor

WORDS = ("train lora", "dreambooth", "flux train", "textual inversion", "pivotal tuning")
OPTION = "[role=option]"
AMONG_TWO = f"""() => [...document.querySelectorAll({OPTION!r})].slice(0, 2)
    .some(option => option.innerText.includes("Train Concepts"))"""


def test_train_concepts_is_found_first_or_second_by_the_words_that_people_know(editor: Editor):
    editor.load_prompt({})
    editor.command("Workspace.SearchBox.Toggle")
    field = editor.page.locator("input[placeholder]").filter(visible=True).last
    for words in WORDS:
        field.fill("no node is called so")
        expect(editor.page.locator(OPTION)).to_have_count(0)
        field.fill(words)
        editor.page.wait_for_function(AMONG_TWO)
    editor.shot("search")
    editor.page.keyboard.press("Escape")
