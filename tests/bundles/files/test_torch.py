"""Files of torch: nested tensors are read by dotted names, and nothing in a file is run."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch

from pack.bundles.files.torch import read_torch


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.folder / 'ran'}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_and_short_texts_are_read(tmp_path: Path, legacy: bool) -> None:
    rows = torch.randn(2, 768)
    content = {"string_to_param": {"*": torch.nn.Parameter(rows)}, "name": "cat", "step": 500}
    torch.save(content, tmp_path / "cat.pt", _use_new_zipfile_serialization=not legacy)
    tensors, texts = read_torch(tmp_path / "cat.pt")
    assert list(tensors) == ["string_to_param.*"] and torch.equal(
        tensors["string_to_param.*"], rows
    )
    assert not tensors["string_to_param.*"].requires_grad
    assert texts == {"name": "cat", "step": "500"}


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_would_run_code_is_refused_by_what_it_names(
    tmp_path: Path, legacy: bool
) -> None:
    content = {"*": torch.ones(1, 768), "more": Command(tmp_path)}
    torch.save(content, tmp_path / "bad.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"holds (posix|nt)\.system, which is not a tensor"):
        read_torch(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    torch.save({"*": torch.zeros(100, 768)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    with pytest.raises(ValueError, match="it unpacks to more than its size"):
        read_torch(tmp_path / "bomb.pt")


def test_a_tensor_that_claims_to_be_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    torch.save({"*": torch.zeros(1).expand(1000, 768)}, tmp_path / "huge.pt")
    with pytest.raises(ValueError, match=r"\* claims to be larger than the file"):
        read_torch(tmp_path / "huge.pt")


def test_a_list_has_no_names_for_its_tensors(tmp_path: Path) -> None:
    torch.save([torch.ones(1, 768)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds a list without names"):
        read_torch(tmp_path / "list.pt")
