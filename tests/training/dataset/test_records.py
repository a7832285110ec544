"""The fingerprint of a dataset changes with what a run would see, and with nothing else."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pack.training.dataset.folder.read import read_folder
from pack.training.dataset.records import Dataset, Record


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    folder = tmp_path / "cats"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"caption {name}")
    return read_folder(folder)


def changed(dataset: Dataset, **fields: object) -> str:
    first, *rest = dataset.records
    return replace(dataset, records=(replace(first, **fields), *rest)).fingerprint()


def test_the_fingerprint_is_stable(dataset: Dataset):
    assert dataset.fingerprint() == read_folder(dataset.records[0].path.parent).fingerprint()


def test_the_fingerprint_sees_captions_repeats_order_and_count(dataset: Dataset):
    seen = {
        dataset.fingerprint(),
        changed(dataset, caption="other"),
        changed(dataset, repeats=2),
        replace(dataset, records=dataset.records[::-1]).fingerprint(),
        replace(dataset, records=dataset.records[:1]).fingerprint(),
    }
    assert len(seen) == 5


def test_the_fingerprint_sees_an_edited_picture(dataset: Dataset):
    before, path = dataset.fingerprint(), dataset.records[0].path
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert dataset.fingerprint() != before


def test_the_fingerprint_decodes_no_picture(dataset: Dataset):
    before, path = dataset.fingerprint(), dataset.records[0].path
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert dataset.fingerprint() == before


def test_the_fingerprint_does_not_see_where_the_folder_lies(dataset: Dataset):
    folder = dataset.records[0].path.parent
    shutil.copytree(folder, folder.with_name("moved"))
    assert read_folder(folder.with_name("moved")).fingerprint() == dataset.fingerprint()


def test_repeats_are_at_least_one():
    with pytest.raises(ValueError, match="repeats is 0 for a.png"):
        Record(path=Path("a.png"), caption="", width=1, height=1, repeats=0)
