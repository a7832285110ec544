"""What a dataset node found out stands on the node itself, without another node to show it."""

from __future__ import annotations

import itertools
from pathlib import Path

from browser.graphs import node
from PIL import Image

from harness.editor.editor import Editor
from harness.host.server import Server

PATIENCE = 120_000
names = (f"reports {number}" for number in itertools.count())


def make_folder(server: Server) -> Path:
    path = server.base / "input" / next(names)
    path.mkdir(parents=True)
    for number in range(3):
        Image.effect_noise((96, 80), 60 + number).save(path / f"{number}.png")
        (path / f"{number}.txt").write_text(f"a <red> TOK & {number}", encoding="utf-8")
    (path / "bad.png").write_bytes(b"no picture")
    return path


def test_reports_are_read_on_the_nodes(editor: Editor, server: Server):
    folder = make_folder(server)
    graph = {
        "1": node("Pivotal_LoadDataset", folder=folder.name),
        "2": node("Pivotal_EditCaptions", dataset=["1", 0], operations='suffix: ", on grass"'),
        "3": node("Pivotal_CheckDataset", dataset=["2", 0]),
    }
    editor.load_prompt(graph)
    editor.queue()
    page = editor.page
    for text in (
        "3 images, 3 an epoch",
        "bad.png cannot be read as an image",
        "+ a <red> TOK & 0, on grass",
        "ready with warnings",
        "Only 3 images",
    ):
        page.get_by_text(text).first.wait_for(state="attached", timeout=PATIENCE)
    page.wait_for_timeout(500)
    editor.shot("reports")
    # Reports belong to a run and are no part of the workflow.
    assert "an epoch" not in str(editor.saved())
    server.wait_until_idle(timeout=120)
