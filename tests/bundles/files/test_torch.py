"""Files of torch: nested tensors are read by dotted names, and nothing in a file is run."""

from __future__ import annotations

import codecs
import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pack.bundles.files.torch import read_torch
from pack.bundles.load import load_bundle, peek


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


def parts_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def good_file(folder: Path, legacy: bool = False) -> Path:
    torch.save(
        {"*": torch.ones(1, 768)}, folder / "cat.pt", _use_new_zipfile_serialization=not legacy
    )
    return folder / "cat.pt"


def test_a_file_that_is_old_and_an_archive_at_once_is_refused(tmp_path: Path) -> None:
    """One reader would see the list of objects at its start, another the archive at its end."""
    new = good_file(tmp_path).read_bytes()
    old = good_file(tmp_path, legacy=True).read_bytes()
    (tmp_path / "both.pt").write_bytes(old + new)
    with pytest.raises(ValueError, match="an old file of torch and an archive at once"):
        read_torch(tmp_path / "both.pt")


def test_a_file_that_is_old_and_a_tar_at_once_is_refused(tmp_path: Path) -> None:
    """torch's oldest files were tars, whose first bytes are the name of a file inside."""
    start = good_file(tmp_path, legacy=True).read_bytes()[:18]
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("x" * 20))
    content = bytearray(made.getvalue())
    content[:20] = start + b"xx"
    blank = bytes(content[:148]) + b" " * 8 + bytes(content[156:512])
    content[148:156] = b"%06o\0 " % sum(blank)
    (tmp_path / "tar.pt").write_bytes(content)
    with pytest.raises(ValueError, match="an old file of torch and an archive at once"):
        read_torch(tmp_path / "tar.pt")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cat/DATA.PKL", "'DATA.PKL', which torch does not write"),
        ("cat/Data/0", "'Data/0', which torch does not write"),
        ("cat/constants.pkl", "'constants.pkl', which torch does not write"),
        ("cat/../data.pkl", "'../data.pkl', which torch does not write"),
        ("dog/data.pkl", "several folders"),
        ("cat/data.pkl", "two parts of the same name"),
        ("cat/data/0", "two parts of the same name"),
    ],
)
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_a_part_that_torch_does_not_write_is_refused(
    tmp_path: Path, name: str, said: str, first: bool
) -> None:
    """Readers differ in which of two alike names they take."""
    good = list(parts_of(good_file(tmp_path)).items())
    made = [(name, b"more"), *good] if first else [*good, (name, b"more")]
    with zipfile.ZipFile(tmp_path / "bad.pt", "w") as archive:
        for part, content in made:
            archive.writestr(part, content)
    with pytest.raises(ValueError, match=said):
        read_torch(tmp_path / "bad.pt")


def test_bytes_around_an_archive_and_compressed_parts_are_refused(tmp_path: Path) -> None:
    good = good_file(tmp_path)
    parts, bad = parts_of(good), tmp_path / "bad.pt"
    for content in (b"before" + good.read_bytes(), good.read_bytes() + b"after"):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match="its archive is damaged"):
            read_torch(bad)
    with zipfile.ZipFile(bad, "w") as archive:
        for name, content in parts.items():
            packed = zipfile.ZIP_DEFLATED if name.endswith("version") else zipfile.ZIP_STORED
            archive.writestr(name, content, packed)
    with pytest.raises(ValueError, match="its archive is compressed"):
        read_torch(bad)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_name_spelled_with_escapes_is_refused(tmp_path: Path, legacy: bool) -> None:
    """The checker would undo them, and torch would not: the rest of the name would be commands."""
    made = {"*": torch.ones(1, 768), "step": np.int64(500)}
    torch.save(made, tmp_path / "cat.pt", _use_new_zipfile_serialization=not legacy)
    plain, escaped = b"cnumpy\ndtype\n", b"cnumpy\ndtyp\\x65\n"
    if legacy:
        content = (tmp_path / "cat.pt").read_bytes()
        assert plain in content
        (tmp_path / "bad.pt").write_bytes(content.replace(plain, escaped))
    else:
        with zipfile.ZipFile(tmp_path / "bad.pt", "w") as archive:
            for name, part in parts_of(tmp_path / "cat.pt").items():
                archive.writestr(name, part.replace(plain, escaped))
    with pytest.raises(ValueError, match="spells names in a way that torch does not"):
        read_torch(tmp_path / "bad.pt")


def test_torch_is_given_the_bytes_that_were_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changes between the check and the load changes nothing."""
    path, load = good_file(tmp_path), torch.load

    def swapped(*args: Any, **options: Any) -> Any:
        torch.save({"*": torch.zeros(9, 768)}, path)
        return load(*args, **options)

    monkeypatch.setattr(torch, "load", swapped)
    assert torch.equal(read_torch(path)[0]["*"], torch.ones(1, 768))


@pytest.mark.parametrize("version", ["2.4.1", "2.5.1+cu124", "2.9.1", "2.10.0a0+git1234"])
def test_a_torch_with_known_holes_reads_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(ValueError, match=r"update torch to 2\.10 or newer, or get the file as"):
        read_torch(good_file(tmp_path))


@pytest.mark.parametrize("version", ["2.10.0", "2.10.1+cu130", "2.11.0", "3.0"])
def test_a_torch_without_known_holes_reads_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    path = good_file(tmp_path)
    monkeypatch.setattr(torch, "__version__", version)
    assert list(read_torch(path)[0]) == ["*"]


@pytest.mark.parametrize("name", ["cat.pt", "cat.bin", "cat.PT"])
def test_a_glance_does_not_open_a_file_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Opening a workflow asks for a glance, and nobody has agreed to read the file yet."""
    path = good_file(tmp_path).rename(tmp_path / name)
    monkeypatch.setattr(Path, "read_bytes", None)
    monkeypatch.setattr(torch, "load", None)
    glance = peek(path)
    assert not glance.opened and not glance.entries
    assert "opened only by a run" in glance.notes[0] and name in glance.notes[0]


def test_a_glance_does_not_open_the_torch_file_of_an_adapters_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    good_file(tmp_path).rename(tmp_path / "adapter_model.bin")
    monkeypatch.setattr(torch, "load", None)
    assert not peek(tmp_path).opened
