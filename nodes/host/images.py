"""Between Pillow's pictures and the host's IMAGE and MASK tensors."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ...bundles.files.atomic import replace_file
from .folders import user_folder


def as_image(picture: Image.Image) -> Tensor:
    """An IMAGE of one picture: (1, height, width, 3) in 0..1."""
    return to_tensor(picture)[None]


def as_mask(mask: Image.Image) -> Tensor:
    """A MASK of one picture: (1, height, width) in 0..1."""
    pixels = torch.frombuffer(bytearray(mask.convert("L").tobytes()), dtype=torch.uint8)
    return pixels.view(1, mask.height, mask.width).float() / 255


def as_picture(pixels: Tensor) -> Image.Image:
    """(height, width), (height, width, 1), (..., 3) or (..., 4) in 0..1 as an 8-bit picture."""
    values = (pixels.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().contiguous()
    channels = 1 if values.ndim == 2 else values.shape[2]
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    data = bytes(values.flatten().numpy().data)
    return Image.frombytes(mode, (values.shape[1], values.shape[0]), data)


def keep_picture(pixels: Tensor) -> Path:
    """A PNG of the pixels in the user's folder, named by its content and written once."""
    picture = as_picture(pixels)
    name = hashlib.sha256(repr((picture.size, picture.mode)).encode() + picture.tobytes())
    path = user_folder("pictures") / f"{name.hexdigest()[:32]}.png"
    if not path.exists():
        replace_file(path, lambda draft: picture.save(draft, format="PNG", compress_level=1))
    return path


def to_tensor(picture: Image.Image) -> Tensor:
    """(height, width, 3) in 0..1"""
    flat = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return flat.view(picture.height, picture.width, 3).float() / 255


def to_picture(pixels: Tensor) -> Image.Image:
    """(height, width, 3) in 0..1, rounded as the host's Save Image does it."""
    return Image.fromarray((pixels.cpu() * 255).clamp(0, 255).to(torch.uint8).numpy())
