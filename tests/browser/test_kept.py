"""What the pack keeps, in a real browser: shown, chosen, and removed by mouse and keyboard."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.acts import refused, unreachable
from playwright.sync_api import expect

from harness.editor.editor import Editor
from harness.host.server import Server

DAY = 24 * 3600.0
KEPT = re.compile("/pivotal/kept$")
REMOVE = re.compile("^Remove these files$")
PRUNE = re.compile("/pivotal/kept/prune$")
OLD = {
    f"latents/00/{'0' * 64}.safetensors": 1_500_000,
    f"latents/00/{'1' * 64}.safetensors": 2_500_000,
    f"thumbs/{'2' * 32}.webp": 10_000,
    f"reviews/{'3' * 16}.jsonl": 1000,
}


@pytest.fixture(autouse=True)
def old(server: Server) -> Iterator[list[Path]]:
    """Files that are two thousand days old, which nothing else in the server is."""
    paths = [server.base / "user" / "pivotal" / name for name in OLD]
    for path, size in zip(paths, OLD.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        os.utime(path, (time.time() - 2000 * DAY,) * 2)
    yield paths
    for path in paths:
        path.unlink(missing_ok=True)


def entry(editor: Editor) -> Any:
    return editor.page.get_by_role("button", name="What Pivotal keeps")


def button(editor: Editor, name: str | re.Pattern[str]) -> Any:
    return editor.page.locator(".pivotal-kept").get_by_role("button", name=name)


def days(editor: Editor) -> Any:
    return editor.page.get_by_label("Older than, in days")


def said(editor: Editor, text: str) -> None:
    editor.expect(".pivotal-kept-said").to_contain_text(text)


def open_kept(editor: Editor) -> None:
    editor.open_panel("pivotal.runs")
    entry(editor).click()
    editor.expect(".pivotal-kept-table tbody tr").to_have_count(7)


def test_it_is_shown_then_what_would_be_removed_then_it_is_removed(editor: Editor, old: list[Path]):
    open_kept(editor)
    row = editor.page.locator("tr[data-kind=latents]")
    expect(row).to_contain_text("The next run encodes its images again.")
    expect(row).to_contain_text("MB")
    expect(button(editor, REMOVE)).to_have_count(0)
    days(editor).fill("1000")
    button(editor, "Show what would be removed").click()
    said(editor, "Files that would be removed: 3, 4 MB.")
    said(editor, "latents of images: The next run encodes its images again.")
    expect(button(editor, REMOVE)).to_be_focused()
    assert all(path.exists() for path in old)
    editor.shot("kept")
    button(editor, REMOVE).click()
    said(editor, "Files removed: 3, 4 MB.")
    assert [path.exists() for path in old] == [False, False, False, True]
    expect(button(editor, "Show what would be removed")).to_be_focused()
    button(editor, "Show what would be removed").click()
    said(editor, "Nothing would be removed.")


def test_it_is_found_below_many_runs_with_charts(editor: Editor, server: Server):
    runs = [server.base / "output" / "pivotal" / f"many {number}" for number in range(40)]
    line = {"step": 1, "steps": 2, "loss": 0.5, "losses": [0.5], "norms": {"a": 1}, "d": {"a": 1}}
    try:
        for run in runs:
            run.mkdir(parents=True)
            (run / "run.json").write_text("{}")
            (run / "report.jsonl").write_text(json.dumps(line) + "\n")
        editor.reload()
        if not editor.page.locator(".pivotal-monitor").count():
            editor.open_panel("pivotal.runs")
        editor.page.locator(".pivotal-run[data-run='many 39']").wait_for()
        expect(entry(editor)).to_be_in_viewport(ratio=1)
        editor.shot("kept_entry")
        editor.page.locator(".pivotal-run[data-run='many 0']").scroll_into_view_if_needed()
        entry(editor).click()
        expect(editor.page.locator("tr[data-kind=latents]")).to_be_in_viewport(ratio=1)
        editor.shot("kept_scrolled")
    finally:
        for run in runs:
            shutil.rmtree(run, ignore_errors=True)
        # The page would ask for the run that it showed.
        editor.reload()


def test_whoever_changes_the_order_sees_again_what_would_be_removed(editor: Editor):
    open_kept(editor)
    days(editor).fill("1000")
    for change in (
        lambda: days(editor).fill("1001"),
        lambda: editor.page.get_by_label("Leave at most, in GB").fill("0.001"),
        lambda: editor.page.get_by_label("thumbnails").uncheck(),
    ):
        button(editor, "Show what would be removed").click()
        expect(button(editor, REMOVE)).to_have_count(1)
        change()
        expect(button(editor, REMOVE)).to_have_count(0)
        said(editor, "")


def test_it_is_all_done_by_the_keyboard_and_edits_only_when_they_are_chosen(
    editor: Editor, old: list[Path]
):
    editor.open_panel("pivotal.runs")
    entry(editor).focus()
    editor.page.keyboard.press("Enter")
    editor.expect(".pivotal-kept-table tbody tr").to_have_count(7)
    boxes = editor.page.locator(".pivotal-kept input[type=checkbox]")
    work = [boxes.nth(at).input_value() for at in range(7) if not boxes.nth(at).is_checked()]
    assert work == ["reviews", "history"]
    editor.page.keyboard.press("Tab")
    for at in range(7):
        expect(boxes.nth(at)).to_be_focused()
        if at < 6:
            # All but the edits are taken out, and the edits in.
            editor.page.keyboard.press("Space")
        editor.page.keyboard.press("Tab")
    expect(days(editor)).to_be_focused()
    editor.page.keyboard.type("1000")
    editor.page.keyboard.press("Control+a")
    editor.page.keyboard.type("1000")
    for _ in range(2):
        editor.page.keyboard.press("Tab")
    editor.page.keyboard.press("Enter")
    said(editor, "Files that would be removed: 1, 1 kB.")
    said(editor, "Your edits are lost")
    editor.shot("kept_keyboard")
    editor.page.keyboard.press("Enter")
    said(editor, "Files removed: 1")
    assert [path.exists() for path in old] == [True, True, True, False]
    editor.page.keyboard.press("Escape")


def test_a_refusal_and_a_server_that_is_away_are_said(editor: Editor, old: list[Path]):
    open_kept(editor)
    days(editor).fill("1000")
    with refused(editor, PRUNE, "The disk is full."):
        button(editor, "Show what would be removed").click()
        said(editor, "The disk is full.")
    button(editor, "Show what would be removed").click()
    said(editor, "would be removed: 3")
    with unreachable(editor, PRUNE):
        button(editor, REMOVE).click()
        said(editor, "The server cannot be reached.")
    assert all(path.exists() for path in old)
    days(editor).fill("")
    button(editor, "Show what would be removed").click()
    said(editor, "days must be a number.")
    editor.problems[:] = [one for one in editor.problems if "status of 400" not in one]


SHARED = "All users of this server share what is kept"


def test_where_users_share_a_server_nothing_can_be_chosen(editor: Editor):
    def close(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "closed": f"{SHARED}."})

    editor.page.route(KEPT, close)
    editor.open_panel("pivotal.runs")
    entry(editor).click()
    said(editor, SHARED)
    expect(button(editor, "Show what would be removed")).to_have_count(0)
    editor.expect(".pivotal-kept input:enabled:visible").to_have_count(0)
    editor.shot("kept_closed")


def test_it_is_readable_on_a_light_page_and_a_second_click_shows_the_runs_again(editor: Editor):
    editor.page.evaluate("app.extensionManager.setting.set('Comfy.ColorPalette', 'light')")
    try:
        open_kept(editor)
        days(editor).fill("1000")
        button(editor, "Show what would be removed").click()
        said(editor, "would be removed: 3")
        editor.shot("kept_light")
        entry(editor).click()
        editor.expect(".pivotal-kept").to_be_hidden()
        editor.expect(".pivotal-detail").to_be_visible()
    finally:
        editor.page.evaluate("app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
