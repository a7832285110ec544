"""Pictures as tensors and back."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import Tensor

from pack.training.dataset.pictures.pixels import to_picture, to_tensor

LEVELS = bytes(range(256))


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
@pytest.mark.parametrize("truncate", [False, True])
def test_every_level_comes_back_as_it_was(mode: str, channels: int, truncate: bool):
    picture = Image.frombytes(mode, (64, 4), LEVELS * channels)
    pixels = to_tensor(picture)
    assert pixels.shape == (4, 64, channels) and (pixels.min(), pixels.max()) == (0, 1)
    back = to_picture(pixels, truncate=truncate)
    assert (back.mode, back.size, back.tobytes()) == (mode, picture.size, picture.tobytes())


def test_levels_times_255_are_whole_numbers():
    pixels = to_tensor(Image.frombytes("L", (256, 1), LEVELS)) * 255
    assert torch.equal(pixels.flatten(), torch.arange(256.0))


def test_a_mask_needs_no_axis_for_its_channel():
    assert to_picture(torch.zeros(2, 3)).mode == "L"
    assert to_picture(torch.zeros(2, 3)).size == (3, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_between_levels_are_rounded_or_cut_off_as_save_image_does(dtype: torch.dtype):
    pixels = (torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1).to(
        dtype
    )
    nearest = (255 * pixels.double()).clamp(0, 255).round()
    assert torch.equal(levels(to_picture(pixels)), nearest)
    below = (255 * pixels).clamp(0, 255).to(torch.uint8).double()
    assert torch.equal(levels(to_picture(pixels, truncate=True)), below)


def levels(picture: Image.Image) -> Tensor:
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.view(picture.height, picture.width, -1).double()
