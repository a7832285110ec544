"""Files are whole or absent, and old files survive every failure."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pack.bundles.files import atomic
from pack.bundles.files.atomic import create_files, remove_drafts, replace_file, replace_text
from pack.bundles.files.safetensors import read_safetensors, replace_safetensors, tensor_file

OLD = {"x": torch.zeros(3)}
NEW = {"x": torch.ones(5)}


def fail_with(error: BaseException) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def create(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    create_files({path: tensor_file(tensors, metadata)})


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    create(path, OLD, {})
    with pytest.raises(FileExistsError, match=r"a\.safetensors exists already.*another name"):
        create(path, NEW, {})
    assert torch.equal(read_safetensors(path)[0]["x"], OLD["x"])
    assert names(tmp_path) == ["a.safetensors"]


def test_a_file_that_appears_while_writing_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sync = tmp_path / "a.safetensors", os.fsync

    def intrude(handle: int) -> None:
        path.write_text("theirs")
        sync(handle)

    monkeypatch.setattr(os, "fsync", intrude)
    with pytest.raises(FileExistsError, match="exists already"):
        create(path, NEW, {})
    assert path.read_text() == "theirs" and names(tmp_path) == ["a.safetensors"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no folder .*nowhere"):
        create(tmp_path / "nowhere" / "a.safetensors", NEW, {})


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_replacement_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, error: BaseException
) -> None:
    path = tmp_path / "a.safetensors"
    create(path, OLD, {"state": "old"})
    before = path.read_bytes()
    monkeypatch.setattr(os, function, fail_with(error))
    with pytest.raises(type(error)):
        replace_safetensors(path, NEW, {})
    assert path.read_bytes() == before and names(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("function", ["fsync", "link"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_new_file_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, error: BaseException
) -> None:
    monkeypatch.setattr(os, function, fail_with(error))
    with pytest.raises(type(error)):
        create(tmp_path / "a.safetensors", NEW, {})
    assert names(tmp_path) == []


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"old")

    def fail(draft: Path) -> None:
        draft.write_bytes(b"half")
        raise ValueError("no picture")

    with pytest.raises(ValueError, match="no picture"):
        replace_file(tmp_path / "a.png", fail)
    assert (tmp_path / "a.png").read_bytes() == b"old" and names(tmp_path) == ["a.png"]


def test_a_replacement_takes_the_place_of_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    replace_safetensors(path, OLD, {})
    replace_safetensors(path, NEW, {"state": "new"})
    found, metadata = read_safetensors(path)
    assert torch.equal(found["x"], NEW["x"]) and metadata == {"state": "new"}
    assert names(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EINVAL])
def test_a_disk_without_hard_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "link", fail_with(OSError(code, "no links here")))
    path = tmp_path / "a.safetensors"
    create(path, NEW, {})
    assert torch.equal(read_safetensors(path)[0]["x"], NEW["x"])
    with pytest.raises(FileExistsError, match="exists already"):
        create(path, OLD, {})
    assert names(tmp_path) == ["a.safetensors"]


def test_a_failing_move_on_such_a_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", fail_with(OSError(errno.EPERM, "no links here")))
    monkeypatch.setattr(os, "replace", fail_with(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        create(tmp_path / "a.safetensors", NEW, {})
    assert names(tmp_path) == []


def test_several_files_are_written_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {tmp_path / name: tensor_file(NEW, {}) for name in ("a", "b", "c")}
    link, done = os.link, []

    def break_at_the_third(source: Path, target: Path) -> None:
        if len(done) == 2:
            raise OSError(errno.EIO, "broken")
        done.append(target)
        link(source, target)

    monkeypatch.setattr(os, "link", break_at_the_third)
    with pytest.raises(OSError, match="broken"):
        create_files(files)
    assert len(done) == 2 and names(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_other_users_may_read_the_file_as_the_umask_says(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        create(tmp_path / "a.safetensors", NEW, {})
    finally:
        os.umask(previous)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644


def test_drafts_of_killed_processes_are_removed_and_nothing_else(tmp_path: Path):
    ours = [".pivotal-0123456789abcdef.tmp"]
    ours += [".0123456789abcdef.pivotal-part", ".a.txt.pivotal-part"]
    others = ["a.pivotal-part", ".pivotal-part", ".a.txt.part", ".notes.txt", "a.txt"]
    others += [".pivotal-notes.tmp", "x.pivotal-0123456789abcdef.tmp"]
    for name in (*ours, *others):
        (tmp_path / name).write_text("x")
    (tmp_path / ".folder.pivotal-part").mkdir()
    (tmp_path / ".link.pivotal-part").symlink_to(tmp_path / "a.txt")
    before = {path.name for path in tmp_path.iterdir()}
    assert remove_drafts([tmp_path, tmp_path, tmp_path / "none"]) == 3
    assert {path.name for path in tmp_path.iterdir()} == before - set(ours)


@pytest.mark.skipif(atomic.fcntl is None, reason="needs locks of files")
def test_a_draft_that_is_being_written_stays(tmp_path: Path, monkeypatch):
    """Another process removes drafts at the worst moment: after the text, before the name."""
    seen: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(
        atomic.os, "fsync", lambda n: (sync(n), seen.append(remove_drafts([tmp_path])))
    )
    replace_text(tmp_path / "a.txt", "new")
    assert set(seen) == {0} and (tmp_path / "a.txt").read_text() == "new"
    assert len(list(tmp_path.glob(".*"))) == 0


@pytest.mark.skipif(atomic.fcntl is None, reason="needs locks of files")
def test_a_draft_that_was_removed_before_it_was_locked_is_made_anew(tmp_path: Path, monkeypatch):
    lock, calls = atomic.fcntl.flock, []

    def late(file: object, kind: int) -> None:
        calls.append(kind)
        if len(calls) == 1:
            assert remove_drafts([tmp_path]) == 1
        lock(file, kind)

    monkeypatch.setattr(atomic.fcntl, "flock", late)
    replace_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new" and calls.count(atomic.fcntl.LOCK_EX) == 2
    assert len(list(tmp_path.glob(".*"))) == 0


def test_without_locks_only_old_drafts_are_abandoned(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(atomic, "fcntl", None)
    for name, age in (("young", 60), ("old", 25 * 3600)):
        path = tmp_path / f".{name}.pivotal-part"
        path.write_text("x")
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    assert remove_drafts([tmp_path]) == 1 and (tmp_path / ".young.pivotal-part").exists()
    replace_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
