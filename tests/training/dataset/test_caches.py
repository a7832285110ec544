"""A cache never gives what is not finite, not whole or not of its key, and never takes it."""

from __future__ import annotations

import sqlite3
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from training.dataset.pictures.test_latents import SIZES, Average
from training.toys import nearest_crop

from pack.bundles.files.journal import Journal
from pack.bundles.files.safetensors import read_safetensors, replace_safetensors
from pack.training.adapters.trilora import Sigma, TriLoraConfig, singular_values, starting_values
from pack.training.dataset.captioning.ask import Asking, Memory, Order, caption_dataset
from pack.training.dataset.checks.measure import measure
from pack.training.dataset.facts import Store, content_digest
from pack.training.dataset.folder.read import read_folder
from pack.training.dataset.pictures import latents
from pack.training.dataset.pictures.latents import BrokenLatents, LatentCache, encode_latents
from pack.training.dataset.writing.review import Review
from pack.training.dataset.writing.write import CaptionHistory
from pack.training.ports import Layer


@pytest.fixture
def dataset(tmp_path: Path):
    for number, size in enumerate([(64, 64), (70, 140), (80, 80)]):
        Image.effect_noise(size, 100).convert("RGB").save(tmp_path / f"{number}.png")
    return read_folder(tmp_path)


class Overflowing(Average):
    """A codec that gives NaN for one of the pictures."""

    def __init__(self, broken: int = 0):
        super().__init__()
        self.broken = broken

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        latent = super().encode(pixels)
        return latent * float("nan") if len(self.shapes) == self.broken else latent


def shape_of(width: int, height: int) -> tuple[int, ...]:
    return 3, height // 8, width // 8


def encoded(dataset: Any, folder: Path, codec: Average) -> tuple[dict[int, torch.Tensor], list]:
    cache = LatentCache(folder, "codec", Store(), shape_of)
    crops = [nearest_crop(record.width, record.height, SIZES) for record in dataset.records]
    return dict(encode_latents(dataset, crops, codec, cache=cache)), cache.notes


def paths_of(dataset: Any, folder: Path) -> list[Path]:
    cache = LatentCache(folder, "codec", Store())
    crops = [nearest_crop(record.width, record.height, SIZES) for record in dataset.records]
    return [cache.paths([pair])[0] for pair in zip(dataset.records, crops, strict=True)]


def test_latents_that_are_not_finite_are_named_and_not_cached(dataset, tmp_path: Path):
    folder = tmp_path / "latents"
    with pytest.raises(BrokenLatents, match=r"NaN or infinite values for 2\.png"):
        encoded(dataset, folder, Overflowing(2))
    assert [path.exists() for path in paths_of(dataset, folder)] == [True, False, False]
    good, notes = encoded(dataset, folder, Average())
    assert all(latent.isfinite().all() for latent in good.values()) and notes == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def exchange_values(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def without_check(tensor: torch.Tensor):
    return lambda path: replace_safetensors(path, {"latent": tensor}, {})


DAMAGE = {
    "NaN, by an earlier version": without_check(torch.full((3, 8, 8), torch.nan)),
    "infinite": without_check(torch.full((3, 8, 8), torch.inf)),
    "another shape": without_check(torch.zeros(3, 4, 4)),
    "another number format": without_check(torch.zeros(3, 8, 8, dtype=torch.bfloat16)),
    "another tensor": lambda path: replace_safetensors(path, {"x": torch.zeros(1)}, {}),
    "cut short": cut,
    "empty": lambda path: path.write_bytes(b""),
    "one bit": exchange_values,
    "another picture's": lambda path: path.write_bytes(
        next(p for p in path.parent.parent.rglob("*.safetensors") if p != path).read_bytes()
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_latent_is_encoded_again_with_a_line(dataset, tmp_path: Path, damage: str):
    folder = tmp_path / "latents"
    first, _ = encoded(dataset, folder, Average())
    DAMAGE[damage](paths_of(dataset, folder)[0])
    codec = Average()
    again, notes = encoded(dataset, folder, codec)
    assert codec.shapes == [(1, 64, 64, 3)]
    assert all(torch.equal(again[i], latent) for i, latent in first.items())
    assert len(notes) == 1 and notes[0].endswith("were encoded again: 0.png.")


def test_a_latent_of_an_earlier_version_is_used(dataset, tmp_path: Path):
    folder = tmp_path / "latents"
    first, _ = encoded(dataset, folder, Average())
    for path in paths_of(dataset, folder):
        replace_safetensors(path, read_safetensors(path)[0], {})
    codec = Average()
    again, notes = encoded(dataset, folder, codec)
    assert (codec.shapes, notes) == ([], [])
    assert all(torch.equal(again[i], latent) for i, latent in first.items())


def test_a_picture_that_changes_while_it_is_encoded_is_not_cached(
    dataset, tmp_path: Path, monkeypatch
):
    load = latents.load_pixels

    def change(record, crop):
        pixels = load(record, crop)
        if record.name == "0.png":
            Image.new("RGB", (64, 64), "teal").save(record.path)
        return pixels

    monkeypatch.setattr(latents, "load_pixels", change)
    folder = tmp_path / "latents"
    _, notes = encoded(dataset, folder, Average())
    assert "0.png" in notes[0] and "not cached" in notes[0]
    monkeypatch.undo()
    codec = Average()
    after, _ = encoded(dataset, folder, codec)
    assert codec.shapes == [(1, 64, 64, 3)] and after[0].std() < 0.3


def test_a_fact_about_a_file_that_changes_meanwhile_is_not_stored(tmp_path: Path):
    path = tmp_path / "a"
    path.write_text("old")
    store = Store()

    def slow() -> str:
        old = path.read_text()
        path.write_text("new text")
        return old

    assert store.fact("text", path, slow, lambda value: True) == "old"
    assert store.fact("text", path, path.read_text, lambda value: True) == "new text"


def test_a_picture_that_cannot_be_read_now_may_be_readable_the_next_time(tmp_path: Path):
    path = tmp_path / "a.png"
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    (record,) = read_folder(tmp_path).records
    store, data, stamp = Store(), path.read_bytes(), path.stat()
    path.write_bytes(b"x" * len(data))
    import os

    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert "cannot be read" in measure(record, store).error
    path.write_bytes(data)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert measure(record, store).error == ""
    path.unlink()
    assert "is gone" in measure(record, store).error


@pytest.mark.parametrize("value", ["[]", "{}", "no json", '"x"', None, '{"content": 1}'], ids=repr)
def test_a_damaged_fact_is_determined_again(tmp_path: Path, value):
    path = tmp_path / "a.png"
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    (record,) = read_folder(tmp_path).records
    store = Store(tmp_path / "facts.sqlite")
    first = measure(record, store)
    store.close()
    with sqlite3.connect(tmp_path / "facts.sqlite") as base:
        base.execute("UPDATE facts SET value = ?", (value,))
    base.close()
    assert measure(record, Store(tmp_path / "facts.sqlite")) == first
    assert first.content == content_digest(path)


def test_a_database_that_is_damaged_behind_its_beginning_is_put_aside(tmp_path: Path):
    path, base = tmp_path / "a", tmp_path / "facts.sqlite"
    path.write_text("x")
    store = Store(base)
    for number in range(200):
        store.put(f"kind {number}", path, "x" * 500)
    store.close()
    data = bytearray(base.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    base.write_bytes(data)
    damaged = Store(base)
    assert damaged.get("kind 7", path) is None
    damaged.put("new", path, 1)
    damaged.close()
    assert Store(base).get("new", path) == 1 and (tmp_path / "facts.sqlite.broken").exists()


def test_a_missing_file_has_no_content_but_a_sentence(tmp_path: Path):
    with pytest.raises(
        (ValueError, FileNotFoundError), match=r"gone\.png is gone since .* put it back"
    ):
        Store().content(tmp_path / "gone.png")


WEIGHT = torch.randn(24, 20, generator=torch.Generator().manual_seed(0))


def layer_of(weight: torch.Tensor, kept: dict[str, torch.Tensor] | None) -> Layer:
    return Layer(name="a", shape=tuple(weight.shape), weight=lambda: weight, kept=kept)


@pytest.mark.parametrize("broken", [torch.full((4,), torch.nan), torch.ones(3), -torch.ones(4)])
def test_broken_singular_values_are_computed_again(broken):
    kept: dict[str, torch.Tensor] = {}
    first = singular_values(layer_of(WEIGHT, kept), 4)
    kept[next(iter(kept))] = broken
    assert torch.equal(singular_values(layer_of(WEIGHT, kept), 4), first)
    assert torch.equal(next(iter(kept.values())), first)


def test_a_weight_with_nan_is_a_sentence_and_not_cached():
    kept: dict[str, torch.Tensor] = {}
    with pytest.raises(ValueError, match="weight of a has NaN or infinite values"):
        singular_values(layer_of(WEIGHT * torch.nan, kept), 4)
    assert kept == {}


@pytest.mark.parametrize("sigma", [Sigma.SCALED, Sigma.PAPER])
def test_a_layer_that_starts_at_zero_gives_finite_values(sigma):
    values = starting_values(layer_of(torch.zeros(8, 8), None), 4, sigma)
    assert torch.equal(values, torch.zeros(4)) and TriLoraConfig(rank=4).rank == 4


class Says:
    """A captioner with one answer that may change the picture meanwhile."""

    identity = "says"

    def __init__(self, answer: str, meanwhile: Any = lambda: None):
        self.answer, self.meanwhile, self.asked = answer, meanwhile, 0

    def caption(self, pictures, asking, seeds) -> list[str]:
        self.asked += len(pictures)
        self.meanwhile()
        return [self.answer] * len(pictures)


def captioned(folder: Path, captioner: Says, journal: Path) -> list[str]:
    memory = Memory(Journal(journal), lambda record: content_digest(record.path))
    steps = caption_dataset(read_folder(folder), captioner, Asking(), Order(), memory)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return [record.caption for record in end.value.records]


def test_a_caption_is_never_cached_for_a_picture_that_came_meanwhile(tmp_path: Path):
    path, journal = tmp_path / "set" / "a.png", tmp_path / "captions.jsonl"
    path.parent.mkdir()
    Image.new("RGB", (64, 64), "red").save(path)
    change = Says("a red wall", lambda: Image.new("RGB", (64, 64), "blue").save(path))
    assert captioned(path.parent, change, journal) == ["a red wall"]
    blue = Says("a blue wall")
    assert captioned(path.parent, blue, journal) == ["a blue wall"] and blue.asked == 1
    assert captioned(path.parent, blue, journal) == ["a blue wall"] and blue.asked == 1


def test_a_refusal_that_an_earlier_version_cached_is_not_used(tmp_path: Path):
    path, journal = tmp_path / "set" / "a.png", tmp_path / "captions.jsonl"
    path.parent.mkdir()
    Image.new("RGB", (64, 64), "red").save(path)
    Journal(journal).add({"picture": content_digest(path), "caption": "I'm sorry, I can't"})
    assert captioned(path.parent, Says("a red wall"), journal) == ["a red wall"]


def test_lines_that_no_version_has_written_hurt_neither_reviews_nor_the_history(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    for changes in ("text", {"a": 1}, {"a": {"unknown": 1}}, {"a": {"caption": 7}}):
        Journal(path).add({"changes": changes, "revision": "x"})
    Journal(path).add({"changes": {"b": {"caption": "good", "base": "", "enabled": True}}})
    assert {name: edit.caption for name, edit in Review(path).edits.items()} == {"b": "good"}
    assert CaptionHistory(path).revision() == 0


def test_measures_of_an_earlier_version_are_used_unless_a_sky_was_a_border(tmp_path: Path):
    path, store = tmp_path / "a.png", Store()
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    (record,) = read_folder(tmp_path).records
    first = measure(record, store)
    old = {**asdict(first), "light": 0.125}
    del old["tones"]
    store.put("measures 1 white", path, old)
    assert measure(record, store) == replace(first, light=0.125, tones=0.0)
    store.put("measures 1 white", path, {**old, "border": 0.4})
    assert measure(record, store) == first
