"""Safetensors files come back bit for bit, and damaged ones are named."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pack.bundles.files.atomic import create_files
from pack.bundles.files.safetensors import read_safetensors, tensor_file

NEW = {"x": torch.ones(5)}


def create(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    create_files({path: tensor_file(tensors, metadata)})


def raw_file(path: Path, header: bytes, body: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_tensors_and_metadata_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": torch.arange(12).view(3, 4).to(dtype), "b": torch.tensor(3).to(dtype)}
    create(tmp_path / "a.safetensors", tensors, {"key": "välue"})
    found, metadata = read_safetensors(tmp_path / "a.safetensors")
    assert metadata == {"key": "välue"} and set(found) == {"a", "b"}
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)
    assert all(found[key].dtype == dtype for key in tensors)


def test_views_that_share_memory_are_saved_apart(tmp_path: Path) -> None:
    table = torch.arange(12.0).view(3, 4)
    tensors = {"all": table, "row": table[1], "column": table[:, 1], "again": table}
    create(tmp_path / "a.safetensors", tensors, {})
    found = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)


def test_tensors_read_outlive_a_change_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    create(path, NEW, {})
    found, _ = read_safetensors(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(found["x"], NEW["x"])


def test_every_cut_of_a_file_is_called_unreadable(tmp_path: Path) -> None:
    create(tmp_path / "whole", NEW, {"key": "value"})
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
