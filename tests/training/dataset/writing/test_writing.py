"""Captions are written whole, never by accident, and every change can be taken back."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pack.training.dataset.folder.read import FolderOptions, read_folder
from pack.training.dataset.folder.scan import Subfolders
from pack.training.dataset.writing.write import (
    CaptionFile,
    CaptionHistory,
    OnExisting,
    joined,
    plan_changes,
    read_before,
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


def test_an_undo_writes_nothing_into_a_folder_that_was_exchanged(folder: Path):
    history = CaptionHistory(folder.parent / "history.jsonl")
    write(folder, history, OnExisting.REPLACE, a="new", b="two")
    theirs = folder.parent / "theirs"
    folder.rename(folder.parent / "moved")
    theirs.mkdir()
    for name, text in (("a.txt", "new\n"), ("b.txt", "two\n")):
        (theirs / name).write_text(text)
    folder.symlink_to(theirs, target_is_directory=True)
    assert history.undo(1) == [
        f"{name}.txt is in another place now and is left unchanged." for name in "ab"
    ]
    assert texts(theirs) == {"a.txt": "new\n", "b.txt": "two\n"}


def test_an_undo_follows_no_link_and_asks_whether_it_may_write(folder: Path):
    history = CaptionHistory(folder.parent / "history.jsonl")
    write(folder, history, OnExisting.REPLACE, a="new", b="two")
    (folder.parent / "user").write_text("new\n")
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to(folder.parent / "user")
    allowed = lambda path: path.name != "b.txt"  # noqa: E731
    assert len(history.undo(1, allowed)) == 2
    assert (folder.parent / "user").read_text() == "new\n" and (folder / "b.txt").exists()


def test_a_history_of_an_earlier_version_is_undone(folder: Path):
    """It did not know where a file's folder led."""
    history = CaptionHistory(folder.parent / "history.jsonl")
    write(folder, history, OnExisting.REPLACE, a="new")
    (entry,) = history.journal.entries()
    del entry["folder"]
    history.journal.rewrite([entry])
    assert history.undo(1) == [] and (folder / "a.txt").read_bytes() == OLD


@pytest.mark.parametrize("inside", [True, False])
def test_captions_are_not_written_through_a_link(folder: Path, inside: bool):
    target = (folder if inside else folder.parent) / "user"
    target.write_text("theirs")
    (folder / "b.txt").symlink_to(target)
    records = captioned(folder, b="new")
    with pytest.raises(ValueError, match="b.txt is a link or no file, and captions are not"):
        list(plan_changes(records, CaptionFile.TXT, OnExisting.REPLACE))
    assert target.read_text() == "theirs" and (folder / "b.txt").is_symlink()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes with a name in a folder")
@pytest.mark.timeout(20)
def test_a_pipe_in_the_place_of_a_caption_does_not_block(folder: Path):
    os.mkfifo(folder / "b.txt")
    with pytest.raises(ValueError, match="b.txt is a link or no file"):
        list(plan_changes(captioned(folder, b="new"), CaptionFile.TXT, OnExisting.APPEND))


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


def rewritten(
    folder: Path, mode: OnExisting = OnExisting.REPLACE, **captions: str
) -> dict[str, str]:
    """The captions that are read again after these were written where captions were read."""
    history = CaptionHistory(folder.parent / "history.jsonl")
    history.write(plan_changes(captioned(folder, **captions), CaptionFile.AS_READ, mode))
    return {r.path.stem: r.caption for r in read_folder(folder).records}


PLACES = {
    "a.caption": "old\n",
    "A.TXT": "old\n",
    "metadata.jsonl": '{"file_name": "a.png", "text": "old"}\n',
    "metadata.csv": "file_name;caption\na.png;old\n",
    "meta.json": '{"/elsewhere/a.png": {"caption": "old"}}',
    "meta_lat.json": '{"a": {"tags": "old"}}',
}


@pytest.mark.parametrize("file", PLACES)
def test_a_caption_is_written_where_it_was_read(folder: Path, file: str):
    (folder / "a.txt").unlink()
    (folder / file).write_text(PLACES[file])
    assert [r.caption for r in read_folder(folder).records] == ["old", "", ""]
    wanted = {"a": "old, and new", "b": "two", "c": ""}
    assert rewritten(folder, a="old, and new", b="two") == wanted
    assert {p.name for p in folder.iterdir() if p.suffix != ".png"} == {file, "b.txt"}
    assert rewritten(folder, OnExisting.SKIP, a="later", c="three") == {**wanted, "c": "three"}


def test_a_caption_in_a_table_above_its_folder_is_written_there(tmp_path: Path):
    folder = tmp_path / "set"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / name / "1.png")
    lines = [json.dumps({"file_name": f"{name}/1.png", "text": name}) for name in ("cat", "dog")]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    options = FolderOptions(subfolders=Subfolders.ALL)
    records = [
        replace(r, caption=f"a {r.caption}") for r in read_folder(folder, options=options).records
    ]
    history = CaptionHistory(tmp_path / "h.jsonl")
    assert history.write(plan_changes(records, CaptionFile.AS_READ, OnExisting.REPLACE)) == 1
    found = {r.name: r.caption for r in read_folder(folder, options=options).records}
    assert found == {"cat/1.png": "a cat", "dog/1.png": "a dog"}
    # In a file of another kind, each folder has its own.
    history.write(plan_changes(records, CaptionFile.CSV, OnExisting.REPLACE))
    assert (folder / "dog" / "metadata.csv").read_text() == "file_name,text\n1.png,a dog\n"


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le"])
def test_a_table_in_another_encoding_is_written_whole_and_undone_to_the_byte(folder, encoding):
    (folder / "a.txt").unlink()
    Image.new("RGB", (8, 8)).save(folder / "caf\u00e9.png")
    before = "file_name,text\ncaf\u00e9.png,cr\u00e8me\na.png,one\n".encode(encoding)
    (folder / "metadata.csv").write_bytes(before)
    now = rewritten(folder, **{"caf\u00e9": "cr\u00e8me, new"})
    assert now == {"a": "one", "b": "", "c": "", "caf\u00e9": "cr\u00e8me, new"}
    assert len((folder / "metadata.csv").read_text("utf-8").splitlines()) == 3
    CaptionHistory(folder.parent / "history.jsonl").undo(1)
    assert (folder / "metadata.csv").read_bytes() == before


def test_a_caption_edited_by_hand_since_it_was_read_is_kept(folder: Path):
    (folder / "a.txt").write_text("old")
    records = captioned(folder, a="old, new")
    (folder / "a.txt").write_text("by hand, old")
    history = CaptionHistory(folder.parent / "history.jsonl")
    history.write(plan_changes(records, CaptionFile.AS_READ, OnExisting.APPEND))
    assert texts(folder)["a.txt"] == "by hand, old, new\n"


NAMES = [("Cat.JPG", "Cat.TXT"), ("cat.jpg", "CAT.txt"), ("caf\u00e9.jpg", "cafe\u0301.txt")]


@pytest.mark.parametrize(("image", "text"), NAMES)
@pytest.mark.parametrize("mode", list(OnExisting), ids=lambda mode: mode.value)
def test_the_file_that_was_read_is_the_one_that_is_saved(tmp_path: Path, image, text, mode):
    (tmp_path / "set").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "set" / image)
    (tmp_path / "set" / text).write_text("by hand")
    records = [replace(r, caption="new") for r in read_folder(tmp_path / "set").records]
    history = CaptionHistory(tmp_path / "history.jsonl")
    history.write(plan_changes(records, CaptionFile.TXT, mode))
    assert {p.name for p in (tmp_path / "set").iterdir()} == {image, text}
    (record,) = read_folder(tmp_path / "set").records
    assert ("by hand" in record.caption) == (mode is not OnExisting.REPLACE)


def twins(folder: Path, *captions: str):
    (folder / "a.txt").unlink()
    Image.new("RGB", (8, 8)).save(folder / "a.jpg")
    records = [r for r in read_folder(folder).records if r.path.stem == "a"]
    return [replace(r, caption=c) for r, c in zip(records, captions, strict=True)]


@pytest.mark.parametrize(
    "kind", [CaptionFile.AS_READ, CaptionFile.TXT, CaptionFile.CAPTION, CaptionFile.KOHYA]
)
def test_two_captions_for_one_file_are_refused_before_anything_is_written(folder: Path, kind):
    with pytest.raises(ValueError, match="a.jpg and a.png would both write"):
        list(plan_changes(twins(folder, "one", "two"), kind, OnExisting.REPLACE))


def test_two_images_may_share_a_caption_and_a_table_holds_both(folder: Path):
    records = twins(folder, "one", "one")
    (change,) = plan_changes(records, CaptionFile.TXT, OnExisting.REPLACE)
    assert change.after == "one\n"
    history = CaptionHistory(folder.parent / "history.jsonl")
    two = [replace(r, caption=r.name) for r in records]
    history.write(plan_changes(two, CaptionFile.JSONL, OnExisting.REPLACE))
    found = [r.caption for r in read_folder(folder).records]
    assert found == ["a.jpg", "a.png", "", ""]


def test_an_image_that_is_in_a_dataset_twice_is_written_once_or_refused(folder: Path):
    (record, *_) = captioned(folder, a="one")
    again = replace(record, key="other/a.png")
    assert len(list(plan_changes([record, again], CaptionFile.TXT, OnExisting.REPLACE))) == 1
    with pytest.raises(ValueError, match="a.png is in the dataset several times"):
        changed = replace(again, caption="two")
        list(plan_changes([record, changed], CaptionFile.TXT, OnExisting.REPLACE))


def test_files_that_hide_what_is_saved_are_found(folder: Path):
    (folder / "a.txt").write_text("old")
    (folder / "b.caption").write_text("two")
    records = captioned(folder, a="new", b="two", c="three")
    assert read_before(records, CaptionFile.JSONL) == [folder / "a.txt"]
    assert read_before(records, CaptionFile.TXT) == []


def test_a_table_that_cannot_be_kept_whole_is_not_written(folder: Path):
    (folder / "metadata.jsonl").write_text('{"file_name": "b.png", "text": "two"}\n{oops\n')
    with pytest.raises(ValueError, match="metadata.jsonl cannot be written, since its line 2"):
        list(plan_changes(captioned(folder, a="new"), CaptionFile.JSONL, OnExisting.REPLACE))
