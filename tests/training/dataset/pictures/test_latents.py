"""Latents come one for each picture, bucket by bucket, the same whatever is kept already."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from training.toys import nearest_crop

from pack.training.dataset.facts import Store, content_digest
from pack.training.dataset.folder.read import read_folder
from pack.training.dataset.pictures import latents
from pack.training.dataset.pictures.buckets import load_pixels
from pack.training.dataset.pictures.latents import LatentCache, encode_latents

SIZES = [(64, 64), (64, 128)]


class Average:
    """A latent codec: the mean of each block of eight pixels, in half precision."""

    def __init__(self, count: int = 1) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.count = count

    def together(self, width: int, height: int) -> int:
        return self.count * 64 * 64 // (width * height) or 1

    def encode(self, pixels: Tensor) -> Tensor:
        self.shapes.append(tuple(pixels.shape))
        return torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8).half() * self.weight


@pytest.fixture
def dataset(tmp_path: Path):
    for number, size in enumerate([(64, 64), (70, 140), (80, 80), (64, 128), (90, 91)]):
        Image.effect_noise(size, 100).convert("RGB").save(tmp_path / f"{number}.png")
    return read_folder(tmp_path)


def test_each_picture_gets_its_own_latent_bucket_by_bucket(dataset):
    crops = [nearest_crop(record.width, record.height, SIZES) for record in dataset.records]
    codec = Average()

    made = list(encode_latents(dataset, crops, codec))

    assert codec.shapes == 3 * [(1, 64, 64, 3)] + 2 * [(1, 128, 64, 3)]
    assert [index for index, _ in made] == [0, 2, 4, 1, 3]
    for index, latent in made:
        alone = Average().encode(load_pixels(dataset.records[index], crops[index])[None])[0]
        assert torch.equal(latent, alone.float())
        assert latent.dtype == torch.float32 and latent.device.type == "cpu"
        assert not latent.requires_grad


def test_a_latent_is_an_ordinary_tensor_of_its_own(dataset):
    class Host(Average):
        def encode(self, pixels: Tensor) -> Tensor:
            with torch.inference_mode():
                return super().encode(pixels).float().contiguous()

    crops = [nearest_crop(record.width, record.height, SIZES) for record in dataset.records]
    for _, latent in encode_latents(dataset, crops, Host()):
        assert not latent.requires_grad and not latent.is_inference()
        assert latent.untyped_storage().nbytes() == latent.numel() * 4


def test_pictures_are_read_only_when_their_turn_comes(dataset):
    crops = [nearest_crop(record.width, record.height, SIZES) for record in dataset.records]
    dataset.records[3].path.write_bytes(b"gone")
    stream = encode_latents(dataset, crops, Average())
    assert [next(stream)[0] for _ in range(4)] == [0, 2, 4, 1]
    with pytest.raises(ValueError, match=r"3\.png cannot be read as an image"):
        next(stream)


def test_a_crop_is_needed_for_each_picture(dataset):
    with pytest.raises(ValueError, match="0 crops for 5 images"):
        next(encode_latents(dataset, [], Average()))


def test_pictures_of_a_size_are_encoded_as_many_at_once_as_the_codec_says(dataset):
    crops = [nearest_crop(record.width, record.height, SIZES) for record in dataset.records]
    codec = Average(2)
    made = list(encode_latents(dataset, crops, codec))
    assert codec.shapes == [(2, 64, 64, 3), (1, 64, 64, 3)] + 2 * [(1, 128, 64, 3)]
    assert [index for index, _ in made] == [0, 2, 4, 1, 3]
    for index, latent in made:
        alone = Average().encode(load_pixels(dataset.records[index], crops[index])[None])[0]
        assert torch.equal(latent, alone.float())
        assert latent.untyped_storage().nbytes() == latent.numel() * 4


class Neighborly(Average):
    """Latents that depend on the whole batch in their last bits, as those of large models do."""

    def encode(self, pixels: Tensor) -> Tensor:
        return super().encode(pixels).float() + 1e-3 * pixels.mean()


@pytest.mark.parametrize("lost", [0, 2, 4, 3])
def test_a_latent_is_the_same_whatever_is_kept_of_the_others(dataset, tmp_path: Path, lost: int):
    crops = [nearest_crop(record.width, record.height, SIZES) for record in dataset.records]
    cache = LatentCache(tmp_path / "latents", "codec", Store())
    first = dict(encode_latents(dataset, crops, Neighborly(2), cache=cache))
    mates = next(mates for mates in [(0, 2), (4,), (1,), (3,)] if lost in mates)
    paths = cache.paths([(dataset.records[i], crops[i]) for i in mates])
    paths[mates.index(lost)].unlink()
    codec = Neighborly(2)
    again = dict(encode_latents(dataset, crops, codec, cache=cache))
    assert len(codec.shapes) == 1 and codec.shapes[0][0] == len(mates)
    assert all(torch.equal(again[index], latent) for index, latent in first.items())


def test_in_other_company_a_latent_is_made_and_kept_anew(dataset, tmp_path: Path):
    """What another dataset has left must not decide the bits of this one."""
    crops = [nearest_crop(record.width, record.height, SIZES) for record in dataset.records]
    without = replace(dataset, records=dataset.records[1:])
    alone = dict(encode_latents(without, crops[1:], Neighborly(2)))
    cache = LatentCache(tmp_path / "latents", "codec", Store())
    whole = dict(encode_latents(dataset, crops, Neighborly(2), cache=cache))
    after = dict(encode_latents(without, crops[1:], Neighborly(2), cache=cache))
    assert all(torch.equal(after[index], latent) for index, latent in alone.items())
    assert not torch.equal(after[1], whole[2])


def test_the_next_pictures_are_read_while_a_batch_is_encoded(dataset, monkeypatch):
    crops = [nearest_crop(record.width, record.height, SIZES) for record in dataset.records]
    read = {record.name: threading.Event() for record in dataset.records}

    def load(record, crop):
        read[record.name].set()
        return load_pixels(record, crop)

    monkeypatch.setattr(latents, "load_pixels", load)

    class Waiting(Average):
        def encode(self, pixels: Tensor) -> Tensor:
            done = [1, 2, 3, 4, 4][len(self.shapes)]
            name = dataset.records[[0, 2, 4, 1, 3][done]].name
            assert read[name].wait(60), f"{name} was not read ahead"
            return super().encode(pixels)

    assert len(list(encode_latents(dataset, crops, Waiting()))) == 5


def test_no_more_than_the_next_batch_is_read_ahead(dataset, monkeypatch):
    crops = [nearest_crop(record.width, record.height, SIZES) for record in dataset.records]
    read = []
    monkeypatch.setattr(latents, "load_pixels", lambda r, c: (read.append(r), load_pixels(r, c))[1])
    stream = encode_latents(dataset, crops, Average())
    next(stream)
    stream.close()
    assert len(read) <= 2


@pytest.mark.skipif(os.name == "nt", reason="needs a folder that cannot be made")
def test_latents_that_cannot_be_kept_are_told_of_once_and_made_all_the_same(
    dataset, tmp_path: Path, caplog
):
    (tmp_path / "taken").write_text("a file where the folder would be")
    crops = [nearest_crop(record.width, record.height, SIZES) for record in dataset.records]
    cache = LatentCache(tmp_path / "taken" / "latents", "codec", Store())
    assert len(list(encode_latents(dataset, crops, Average(), cache=cache))) == len(crops)
    assert caplog.text.count("No latents can be saved") == 1
    assert "make room or access there" in caplog.text


def test_facts_that_cannot_be_kept_are_told_of_and_found_out_again(tmp_path: Path, caplog):
    (tmp_path / "taken").write_text("a file where the folder would be")
    store = Store(tmp_path / "taken" / "facts.sqlite")
    assert store.content(tmp_path / "taken") == content_digest(tmp_path / "taken")
    store.close()
    assert "cannot be written" in caplog.text and "make room or access there" in caplog.text
