"""Files of torch: nested tensors are read by dotted names, and nothing in a file is run."""

from __future__ import annotations

import codecs
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pack.bundles.files.torch import read_torch
from pack.bundles.load import load_bundle


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


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("step", [500, np.int64(500), np.float32(0.5)])
def test_the_files_of_the_first_trainers_are_read(tmp_path: Path, legacy: bool, step: Any) -> None:
    """A1111 reads the `_parameters` of such a dictionary, too."""
    rows = torch.randn(2, 768)
    values: Any = {"*": torch.nn.Parameter(rows)}
    # torch's own loader refuses what the oldest form of its files says of a module.
    values = values if legacy else torch.nn.ParameterDict(values)
    content = {"string_to_token": {"*": 265}, "string_to_param": values, "step": step}
    torch.save(content, tmp_path / "cat.pt", _use_new_zipfile_serialization=not legacy)
    bundle = load_bundle(tmp_path / "cat.pt")
    assert bundle.names == ["cat"] and torch.equal(bundle.embeddings["cat"]["clip_l"], rows)


class Pickled:
    """What a made-up list of objects says it is."""

    def __init__(self, function: Any, *arguments: object):
        self.made = (function, arguments)

    def __reduce__(self) -> Any:
        return self.made


def grown() -> Pickled:
    """A text that is encoded again and again, twice as long each time."""
    value: object = "x" * 60
    for _ in range(3):
        value = Pickled(codecs.encode, value, "hex")
    return Pickled(codecs.encode, value, "hex")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "content", [grown(), Pickled(codecs.encode, "x" * 1000, "latin1")], ids=["again", "long"]
)
def test_what_could_grow_while_it_is_read_is_refused(
    tmp_path: Path, legacy: bool, content: Pickled
) -> None:
    made = {"*": torch.ones(1, 768), "more": content}
    torch.save(made, tmp_path / "bad.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="encodes more than a number: it is not loaded"):
        read_torch(tmp_path / "bad.pt")


def test_a_stand_in_runs_nothing(tmp_path: Path) -> None:
    """Whatever a file gives to numpy's names or puts into a dictionary of parameters."""
    values = torch.nn.ParameterDict({"*": torch.ones(1, 768)})
    values.__dict__["more"] = Command(tmp_path)
    torch.save({"string_to_param": values}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="which is not a tensor and could run code"):
        read_torch(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()
    odd = {"*": torch.ones(1, 768), "step": Pickled(np.dtype, "U99999999")}
    torch.save(odd, tmp_path / "odd.pt")
    assert list(read_torch(tmp_path / "odd.pt")[0]) == ["*"]
