"""Images and masks that go away between the node that read them and the node that uses them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from factories import write_pictures
from harness.host.graphs import Graph
from harness.host.runner import GraphFailed
from pack.training.dataset.facts import file_status
from pack.training.dataset.folder.read import FolderOptions, read_folder
from pack.training.dataset.pictures.decode import open_mask
from pack.training.dataset.records import Dataset

Run = Callable[..., Any]


@pytest.fixture
def lost(tmp_path: Path) -> Dataset:
    write_pictures(tmp_path / "lost", ["a TOK", "TOK on grass"])
    dataset = read_folder(tmp_path / "lost", options=FolderOptions())
    shutil.rmtree(tmp_path / "lost")
    return dataset


def refused(run_graph: Run, graph: Graph) -> str:
    with pytest.raises(GraphFailed) as caught:
        run_graph(graph)
    return str(caught.value)


def test_train_names_an_image_that_is_gone(sd15, run_graph: Run, lost: Dataset):
    graph = Graph()
    settings = {"dataset": graph.give(lost), "concepts": graph.concept(), "steps": 1}
    graph.keep(graph.train(graph.base("sd15"), "", **settings).out(5))
    assert refused(run_graph, graph).startswith("0.png is gone since its folder was read: put it")


def test_dataset_to_lists_names_an_image_that_is_gone(run_graph: Run, lost: Dataset):
    graph = Graph()
    graph.keep(graph.add("Pivotal_DatasetToLists", dataset=graph.give(lost)).out())
    assert refused(run_graph, graph).startswith("0.png is gone since its folder was read: put it")


def test_check_dataset_reports_an_image_that_is_gone(run_graph: Run, lost: Dataset):
    graph = Graph()
    check = graph.add("Pivotal_CheckDataset", dataset=graph.give(lost))
    graph.keep(check.out(1))
    assert "warning: 0.png is gone since its folder was read" in run_graph(graph)[check, 1]


def test_a_mask_that_is_gone_is_named(tmp_path: Path):
    write_pictures(tmp_path, ["a TOK"])
    Image.new("L", (64, 64)).save(tmp_path / "0_mask.png")
    (record,) = read_folder(tmp_path, options=FolderOptions()).records
    assert record.mask is not None
    record.mask.unlink()
    with pytest.raises(ValueError, match="0_mask.png is gone since its folder was read"):
        open_mask(record)
    with pytest.raises(FileNotFoundError, match="0_mask.png is gone since"):
        replace(Dataset(name="one", records=(record,))).fingerprint()


def test_a_drive_that_is_away_is_named_without_its_folder(tmp_path: Path, monkeypatch):
    def stat(self: Path, **_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(PermissionError) as caught:
        file_status(tmp_path / "cat.png")
    assert str(caught.value).startswith("cat.png cannot be read (Permission denied): check")
