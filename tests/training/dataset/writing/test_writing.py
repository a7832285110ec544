"""Captions are written whole, never by accident, and every change can be taken back."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pack.training.dataset.folder.read import read_folder
from pack.training.dataset.writing.write import (
    CaptionFile,
    CaptionHistory,
    OnExisting,
    joined,
    plan_changes,
)

OLD = b"\xef\xbb\xbfold caf\xe9\r\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8)).save(tmp_path / "set" / f"{name}.png")
    (tmp_path / "set" / "a.txt").write_bytes(OLD)
    return tmp_path / "set"


def captioned(folder: Path, **captions: str):
    records = read_folder(folder).records
    return [replace(r, caption=captions.get(r.path.stem, "")) for r in records]


def write(
    folder: Path, history: CaptionHistory, mode: OnExisting, kind=CaptionFile.TXT, **captions: str
):
    return history.write(plan_changes(captioned(folder, **captions), kind, mode))


def texts(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text("utf-8") for p in sorted(folder.glob("*")) if p.suffix != ".png"}


def test_existing_captions_are_skipped_by_default_and_pictures_without_text_are_left(folder: Path):
    history = CaptionHistory(folder.parent / "history.jsonl")
    assert write(folder, history, OnExisting.SKIP, a="new", b="two") == 1
    assert (folder / "a.txt").read_bytes() == OLD
    assert (folder / "b.txt").read_text() == "two\n" and not (folder / "c.txt").exists()


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (OnExisting.APPEND, "old café, new\n"),
        (OnExisting.PREPEND, "new, old café\n"),
        (OnExisting.REPLACE, "new\n"),
    ],
)
def test_text_is_added_or_replaced_once_and_undone_to_the_byte(folder, mode, text):
    history = CaptionHistory(folder.parent / "history.jsonl")
    assert write(folder, history, mode, a="new", b="b") == 2
    assert texts(folder) == {"a.txt": text, "b.txt": "b\n"}
    assert write(folder, history, mode, a="new", b="b") == 0
    assert history.undo(1) == []
    assert (folder / "a.txt").read_bytes() == OLD and not (folder / "b.txt").exists()
    assert history.undo(2) == []
    assert texts(folder) == {"a.txt": text, "b.txt": "b\n"}


def test_an_undo_leaves_what_was_changed_since(folder: Path):
    history = CaptionHistory(folder.parent / "history.jsonl")
    write(folder, history, OnExisting.REPLACE, a="new", b="two")
    (folder / "a.txt").write_text("by hand")
    assert history.undo(1) == ["a.txt was changed since and is left unchanged."]
    assert texts(folder) == {"a.txt": "by hand"}
    with pytest.raises(ValueError, match="There is no revision 9: the latest is 2"):
        history.undo(9)


def test_a_file_that_changed_after_the_plan_is_not_overwritten(folder: Path):
    changes = list(plan_changes(captioned(folder, a="new"), CaptionFile.TXT, OnExisting.REPLACE))
    (folder / "a.txt").write_text("by hand")
    with pytest.raises(FileExistsError, match="a.txt was changed meanwhile"):
        CaptionHistory(folder.parent / "history.jsonl").write(changes)
    assert texts(folder) == {"a.txt": "by hand"}


@pytest.mark.parametrize("kind", list(CaptionFile), ids=lambda kind: kind.value)
def test_every_format_is_read_back_as_it_was_written(folder: Path, kind: CaptionFile):
    (folder / "a.txt").unlink()
    wanted = {"a": 'x, "y"\nzwei', "b": "ünï 猫"}
    write(folder, CaptionHistory(folder.parent / "h.jsonl"), OnExisting.SKIP, kind, **wanted)
    found = {r.path.stem: r.caption for r in read_folder(folder).records}
    assert found == {**wanted, "c": ""}
    write(folder, CaptionHistory(folder.parent / "h.jsonl"), OnExisting.REPLACE, kind, a="other")
    found = {r.path.stem: r.caption for r in read_folder(folder).records}
    assert found == {**wanted, "a": "other", "c": ""}


def test_other_columns_of_a_table_stay(folder: Path):
    (folder / "a.txt").unlink()
    row = {"file_name": "a.png", "text": "old", "width": 8}
    (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    write(
        folder,
        CaptionHistory(folder.parent / "h"),
        OnExisting.REPLACE,
        CaptionFile.JSONL,
        a="new",
        b="b",
    )
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == row | {"text": "new"}
    assert json.loads(lines[1]) == {"file_name": "b.png", "text": "b"}


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(folder, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write(folder, CaptionHistory(folder.parent / "h.jsonl"), OnExisting.REPLACE, a="new")
    assert (folder / "a.txt").read_bytes() == OLD
    assert {p.name for p in folder.iterdir()} == {"a.png", "a.txt", "b.png", "c.png"}


@pytest.mark.parametrize(
    ("old", "new", "appended", "prepended"),
    [
        ("1girl, red hat", "Red_Hat, smile", "1girl, red hat, smile", "Red_Hat, smile, 1girl"),
        ("1girl, solo", "Solo", "1girl, solo", "Solo, 1girl"),
        ("1girl,solo ", "smile", "1girl,solo, smile", "smile, 1girl, solo"),
        ("a cat sits. It sleeps.", "cat, mat", "a cat sits. It sleeps., cat, mat",
         "cat, mat, a cat sits. It sleeps."),
    ],
)  # fmt: skip
def test_tags_are_merged_tag_by_tag_and_sentences_are_left_whole(old, new, appended, prepended):
    assert joined(old, new, OnExisting.APPEND) == appended
    assert joined(old, new, OnExisting.PREPEND) == prepended
    assert joined(appended, new, OnExisting.APPEND) == appended
