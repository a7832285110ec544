"""Files are whole or absent, old files survive every failure, and damaged files are named."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pack.bundles.files.safetensors import (
    Draft,
    read_safetensors,
    replace_safetensors,
    write_all,
    write_safetensors,
)

OLD = {"x": torch.zeros(3)}
NEW = {"x": torch.ones(5)}


def fail_with(error: BaseException) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def raw_file(path: Path, header: bytes, body: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_tensors_and_metadata_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": torch.arange(12).view(3, 4).to(dtype), "b": torch.tensor(3).to(dtype)}
    write_safetensors(tmp_path / "a.safetensors", tensors, {"key": "välue"})
    found, metadata = read_safetensors(tmp_path / "a.safetensors")
    assert metadata == {"key": "välue"} and set(found) == {"a", "b"}
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)
    assert all(found[key].dtype == dtype for key in tensors)


def test_views_that_share_memory_are_saved_apart(tmp_path: Path) -> None:
    table = torch.arange(12.0).view(3, 4)
    tensors = {"all": table, "row": table[1], "column": table[:, 1], "again": table}
    write_safetensors(tmp_path / "a.safetensors", tensors, {})
    found = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)


def test_tensors_read_outlive_a_change_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, NEW, {})
    found, _ = read_safetensors(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(found["x"], NEW["x"])


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, OLD, {})
    with pytest.raises(FileExistsError, match=r"a\.safetensors exists already.*another name"):
        write_safetensors(path, NEW, {})
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
        write_safetensors(path, NEW, {})
    assert path.read_text() == "theirs" and names(tmp_path) == ["a.safetensors"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no folder .*nowhere"):
        write_safetensors(tmp_path / "nowhere" / "a.safetensors", NEW, {})


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_replacement_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, error: BaseException
) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, OLD, {"state": "old"})
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
        write_safetensors(tmp_path / "a.safetensors", NEW, {})
    assert names(tmp_path) == []


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
    write_safetensors(path, NEW, {})
    assert torch.equal(read_safetensors(path)[0]["x"], NEW["x"])
    with pytest.raises(FileExistsError, match="exists already"):
        write_safetensors(path, OLD, {})
    assert names(tmp_path) == ["a.safetensors"]


def test_a_failing_move_on_such_a_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", fail_with(OSError(errno.EPERM, "no links here")))
    monkeypatch.setattr(os, "replace", fail_with(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        write_safetensors(tmp_path / "a.safetensors", NEW, {})
    assert names(tmp_path) == []


def test_several_files_are_written_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts = [Draft(path=tmp_path / name, tensors=NEW, metadata={}) for name in ("a", "b", "c")]
    link, done = os.link, []

    def break_at_the_third(source: Path, target: Path) -> None:
        if len(done) == 2:
            raise OSError(errno.EIO, "broken")
        done.append(target)
        link(source, target)

    monkeypatch.setattr(os, "link", break_at_the_third)
    with pytest.raises(OSError, match="broken"):
        write_all(drafts)
    assert len(done) == 2 and names(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_other_users_may_read_the_file_as_the_umask_says(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        write_safetensors(tmp_path / "a.safetensors", NEW, {})
    finally:
        os.umask(previous)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644


def test_every_cut_of_a_file_is_called_unreadable(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "whole", NEW, {"key": "value"})
    whole = (tmp_path / "whole").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut is not a readable safetensors file: "):
            read_safetensors(tmp_path / "cut")


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[]",
        b'{"__metadata__": {"a": 1}}',
        b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        b'{"x": {"dtype": "F32", "shape": [4611686018427387905], "data_offsets": [0, 4]}}',
        b"\xff\xfe",
    ],
)
def test_damaged_headers_are_called_unreadable(tmp_path: Path, header: bytes) -> None:
    path = raw_file(tmp_path / "bad", header, b"\0" * 4)
    with pytest.raises(ValueError, match="bad is not a readable safetensors file: "):
        read_safetensors(path)


@pytest.mark.parametrize("length", [100_000_001, 2**63, 2**64 - 1])
def test_a_huge_header_is_refused_unread(tmp_path: Path, length: int) -> None:
    path = tmp_path / "huge"
    path.write_bytes(struct.pack("<Q", length) + b"{}" + b" " * 100)
    with pytest.raises(ValueError, match="huge is not a readable safetensors file: "):
        read_safetensors(path)


def test_a_pickle_is_called_unreadable(tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": torch.ones(2, 768)}}, tmp_path / "old.pt")
    with pytest.raises(ValueError, match=r"old\.pt is not a readable safetensors file: "):
        read_safetensors(tmp_path / "old.pt")


def test_a_file_without_metadata_has_none(tmp_path: Path) -> None:
    header = {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    path = raw_file(tmp_path / "plain", json.dumps(header).encode(), struct.pack("<f", 2.5))
    found, metadata = read_safetensors(path)
    assert found["x"].tolist() == [2.5] and metadata == {}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match="There is no file"):
            read_safetensors(path)
