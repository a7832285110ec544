"""Pillow's 8-bit pictures as tensors of 0..1, and back; in sRGB on both sides."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def to_tensor(picture: Image.Image) -> Tensor:
    """(height, width, channels) in 0..1 of a picture in L, RGB or RGBA."""
    levels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return levels.view(picture.height, picture.width, -1).float() / 255


def to_picture(pixels: Tensor, *, truncate: bool = False) -> Image.Image:
    """A picture of (height, width) or (height, width, channels), clamped to 0..1.

    Values go to the nearest of the 256 levels, or with `truncate` to the one below.
    """
    pixels = pixels.detach().cpu()
    # ComfyUI's Save Image multiplies in the dtype that it gets, which shows in fp16.
    levels = (pixels if truncate else pixels.float()).mul(255).clamp(0, 255)
    values = (levels if truncate else levels.round()).to(torch.uint8).contiguous()
    height, width, *channels = values.shape
    mode = MODES[channels[0] if channels else 1]
    return Image.frombytes(mode, (width, height), bytes(values.flatten().numpy().data))
