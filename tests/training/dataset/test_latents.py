"""Latents come one for each picture, from batches of one bucket."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from pack.training.dataset.buckets import choose_crop, load_pixels
from pack.training.dataset.folder import read_folder
from pack.training.dataset.latents import encode_latents

SIZES = [(64, 64), (64, 128)]


class Average:
    """A latent codec: the mean of each block of eight pixels, in half precision."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.weight = torch.nn.Parameter(torch.ones(()))

    def encode(self, pixels: Tensor) -> Tensor:
        self.shapes.append(tuple(pixels.shape))
        return torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8).half() * self.weight


@pytest.fixture
def dataset(tmp_path: Path):
    for number, size in enumerate([(64, 64), (70, 140), (80, 80), (64, 128), (90, 91)]):
        Image.effect_noise(size, 100).convert("RGB").save(tmp_path / f"{number}.png")
    return read_folder(tmp_path)


def test_each_picture_gets_its_own_latent_from_batches_of_one_bucket(dataset):
    crops = [choose_crop(record.width, record.height, SIZES) for record in dataset.records]
    codec = Average()

    latents = list(encode_latents(dataset, crops, codec, batch_size=2))

    assert codec.shapes == [(2, 64, 64, 3), (1, 64, 64, 3), (2, 128, 64, 3)]
    assert [index for index, _ in latents] == [0, 2, 4, 1, 3]
    for index, latent in latents:
        alone = Average().encode(load_pixels(dataset.records[index], crops[index])[None])[0]
        assert torch.equal(latent, alone.float())
        assert latent.dtype == torch.float32 and latent.device.type == "cpu"
        assert not latent.requires_grad


def test_a_latent_is_an_ordinary_tensor_of_its_own(dataset):
    class Host(Average):
        def encode(self, pixels: Tensor) -> Tensor:
            with torch.inference_mode():
                return super().encode(pixels).float().contiguous()

    crops = [choose_crop(record.width, record.height, SIZES) for record in dataset.records]
    for _, latent in encode_latents(dataset, crops, Host(), batch_size=3):
        assert not latent.requires_grad and not latent.is_inference()
        assert latent.untyped_storage().nbytes() == latent.numel() * 4


def test_pictures_are_read_only_when_their_turn_comes(dataset):
    crops = [choose_crop(record.width, record.height, SIZES) for record in dataset.records]
    dataset.records[3].path.write_bytes(b"gone")
    stream = encode_latents(dataset, crops, Average(), batch_size=1)
    assert [next(stream)[0] for _ in range(4)] == [0, 2, 4, 1]
    with pytest.raises(ValueError, match=r"3\.png cannot be read as a picture"):
        next(stream)


def test_a_crop_is_needed_for_each_picture(dataset):
    with pytest.raises(ValueError, match="0 crops for 5 pictures"):
        next(encode_latents(dataset, [], Average(), batch_size=1))
