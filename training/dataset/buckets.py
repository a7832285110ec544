"""Aspect-ratio buckets: the sizes that pictures are trained at, and their pixels at that size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from .pictures import open_picture
from .records import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """The part of a resized picture that is trained, in pixels."""

    width: int
    """Size of the crop, which is its bucket."""
    height: int
    left: int
    """Offset of the crop in the resized picture."""
    top: int
    original_width: int
    """Size of the upright picture on disk."""
    original_height: int

    @property
    def resized(self) -> tuple[int, int]:
        """(width, height) of the smallest picture of the same shape that covers the crop."""
        scale = max(self.width / self.original_width, self.height / self.original_height)
        width = round(self.original_width * scale)
        height = round(self.original_height * scale)
        return max(width, self.width), max(height, self.height)


def bucket_sizes(resolution: int, step: int = 64) -> tuple[tuple[int, int], ...]:
    """All (width, height) in multiples of `step` with at most `resolution` squared pixels.

    To each width from half to twice the resolution belongs the largest height, and each size
    is there lying and standing; the square is always among them.
    """
    if step < 1 or resolution < step:
        raise ValueError(f"resolution is {resolution}: use at least the bucket step of {step}.")
    square = resolution // step * step
    sizes = {(square, square)}
    for width in range(-(-resolution // 2 // step) * step, 2 * resolution + 1, step):
        height = min(resolution**2 // width, 2 * resolution) // step * step
        if 2 * height >= resolution:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))


def choose_crop(width: int, height: int, sizes: Sequence[tuple[int, int]]) -> Crop:
    """Fit a picture into the bucket of the nearest aspect ratio, covered and centered.

    Nearness is the difference of the logarithms, so that 2:1 and 1:2 are equally far from 1:1;
    of two buckets as near the larger is taken.
    """
    aspect = math.log(width / height)
    bucket = min(sizes, key=lambda s: (abs(math.log(s[0] / s[1]) - aspect), -s[0] * s[1]))
    crop = Crop(
        width=bucket[0],
        height=bucket[1],
        left=0,
        top=0,
        original_width=width,
        original_height=height,
    )
    left, top = ((whole - part) // 2 for whole, part in zip(crop.resized, bucket, strict=True))
    return replace(crop, left=left, top=top)


def load_pixels(record: Record, crop: Crop) -> Tensor:
    """The cropped picture, (height, width, 3) in 0..1; ValueError when it cannot be decoded."""
    picture = open_picture(record).resize(crop.resized, Image.Resampling.LANCZOS)
    right, bottom = crop.left + crop.width, crop.top + crop.height
    part = picture.crop((crop.left, crop.top, right, bottom))
    pixels = torch.frombuffer(bytearray(part.tobytes()), dtype=torch.uint8)
    return pixels.view(crop.height, crop.width, 3).float() / 255
