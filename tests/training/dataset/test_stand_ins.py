"""Words that nobody wrote for an image are no caption: a model is asked, and its answer kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pack.bundles.files.journal import Journal
from pack.training.dataset.captioning.ask import Asking, Memory, Order, caption_dataset, named_like
from pack.training.dataset.captions.label import Kind, Label, label_dataset
from pack.training.dataset.folder.read import FolderOptions, read_folder
from pack.training.dataset.records import Dataset
from pack.training.dataset.writing.write import OnExisting


class Answering:
    """A captioner that says the same of every image."""

    identity, follows_instructions = "toy", True

    def __init__(self, answer: str):
        self.answer, self.asked = answer, 0

    def caption(self, pictures: Any, asking: Any, seeds: Any) -> list[str]:
        self.asked += len(pictures)
        return [self.answer] * len(pictures)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)


def captioned(dataset: Dataset, folder: Path, answer: str, mode: OnExisting) -> tuple[int, Dataset]:
    model = Answering(answer)
    memory = Memory(Journal(folder / "memory.jsonl"), lambda record: record.name)
    steps = caption_dataset(dataset, model, Asking(), Order(on_existing=mode), memory)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return model.asked, end.value


@pytest.mark.parametrize("mode", OnExisting)
def test_sentences_settings_and_folder_names_are_replaced_whatever_is_to_happen_to_captions(
    tmp_path: Path, mode: OnExisting
):
    picture(tmp_path / "set" / "10_dog" / "a.png")
    picture(tmp_path / "set" / "b.png")
    picture(tmp_path / "set" / "c.png")
    (tmp_path / "set" / "c.txt").write_text("by hand")
    dataset = read_folder(tmp_path / "set", options=FolderOptions(default_caption=""))
    sources = {record.name: record.caption_source for record in dataset.records}
    assert sources == {"10_dog/a.png": "folder", "b.png": "", "c.png": ".txt"}
    asked, after = captioned(dataset, tmp_path, "a dog runs on grass", mode)
    texts = {record.name: record.caption for record in after.records}
    assert texts["10_dog/a.png"] == texts["b.png"] == "a dog runs on grass"
    assert asked == 2 if mode is OnExisting.SKIP else 3
    assert ("by hand" in texts["c.png"]) == (mode is not OnExisting.REPLACE)
    default = read_folder(tmp_path / "set", options=FolderOptions(default_caption="a photo"))
    _, after = captioned(default, tmp_path / "other", "a dog runs on grass", mode)
    assert {record.caption for record in after.records} >= {"a dog runs on grass"}
    assert not any("a photo" in record.caption for record in after.records)


def test_an_answer_names_the_concept_that_the_label_named(tmp_path: Path):
    """Load, Label, Caption, with all defaults: the order of the help page."""
    picture(tmp_path / "set" / "a.png")
    dataset, _ = label_dataset(
        read_folder(tmp_path / "set"),
        Label(placeholder="TOK", class_word="dog", kind=Kind.OBJECT),
        insert=True,
    )
    (record,) = dataset.records
    assert record.caption_source == "template" and "TOK" in record.caption
    asked, after = captioned(dataset, tmp_path, "a brown dog on a rug", OnExisting.SKIP)
    assert asked == 1 and after.records[0].caption == "TOK dog on a rug"
    assert named_like(record, "a rug") == "TOK dog, a rug"
    assert named_like(after.records[0], "a rug") == "a rug", "a caption of a model is a caption"
    again, _ = captioned(after, tmp_path, "another", OnExisting.SKIP)
    assert again == 0
