"""Aspect-ratio buckets: the sizes at which pictures are trained, and their pixels at a size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from ...ports import Crop
from ..records import Record
from .decode import open_mask, open_picture
from .pixels import to_tensor


def bucket_sizes(
    resolution: int, step: int = 64, min_side: int = 0, max_side: int = 0
) -> tuple[tuple[int, int], ...]:
    """All (width, height) in multiples of `step` with at most `resolution` squared pixels.

    For each width from half to twice the resolution, or between the given sides, the height is as
    large as possible. Each size exists in both orientations, and the square is always included.
    """
    if step < 1 or resolution < step:
        raise ValueError(f"resolution is {resolution}: use at least the bucket step of {step}.")
    shortest, longest = min_side or resolution / 2, max_side or 2 * resolution
    square = min(resolution, longest) // step * step
    sizes = {(square, square)}
    for width in range(math.ceil(shortest / step) * step, longest + 1, step):
        height = min(resolution**2 // width, longest) // step * step
        if height >= max(shortest, step):
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))


def nearest_bucket(width: int, height: int, sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The bucket of the nearest aspect ratio.

    Distance is the difference of the logarithms, so that 2:1 and 1:2 are equally far from 1:1. Of
    two buckets at the same distance, the larger is taken.
    """
    aspect = math.log(width / height)
    return min(sizes, key=lambda s: (abs(math.log(s[0] / s[1]) - aspect), -s[0] * s[1]))


def cover(
    width: int, height: int, bucket: tuple[int, int], focus: tuple[float, float] = (0.5, 0.5)
) -> Crop:
    """The crop of a bucket's size inside the picture, near a focus in shares of its size."""
    crop = Crop(
        width=bucket[0],
        height=bucket[1],
        left=0,
        top=0,
        original_width=width,
        original_height=height,
    )
    left, top = (
        min(max(int(center * whole - part / 2), 0), whole - part)
        for center, whole, part in zip(focus, crop.resized, bucket, strict=True)
    )
    return replace(crop, left=left, top=top)


def cut(picture: Image.Image, crop: Crop) -> Image.Image:
    """The part of an upright picture that is trained, resized."""
    # Resize the crop only: a huge panorama never exists at its full new size.
    scale_x, scale_y = (a / b for a, b in zip(picture.size, crop.resized, strict=True))
    right, bottom = crop.left + crop.width, crop.top + crop.height
    box = (crop.left * scale_x, crop.top * scale_y, right * scale_x, bottom * scale_y)
    return picture.resize((crop.width, crop.height), Image.Resampling.LANCZOS, box=box)


def load_pixels(record: Record, crop: Crop) -> Tensor:
    """The cropped picture, (height, width, 3) in 0..1; ValueError if it cannot be decoded."""
    return to_tensor(cut(open_picture(record), crop))


def load_mask(record: Record, crop: Crop) -> Tensor | None:
    """The mask with the same crop, (height, width) in 0..1; None for a picture without a mask."""
    mask = open_mask(record)
    return None if mask is None else to_tensor(cut(mask, crop))[..., 0]


def latent_mask(
    record: Record, crop: Crop, size: tuple[int, int], floor: float, step: int = 1
) -> Tensor | None:
    """The weight of each place of a latent of `size` (height, width), from `floor` to 1.

    It is the mean of the mask over the place's pixels. The codec encodes multiples of `step`
    pixels from the middle of the crop. Raises ValueError for a mask that is black everywhere.
    """
    mask = load_mask(record, crop)
    if mask is None:
        return None
    for side, pixels in enumerate(mask.shape):
        over = pixels % step
        mask = mask.narrow(side, over // 2, pixels - over)
    share = torch.nn.functional.adaptive_avg_pool2d(mask[None], size)[0]
    weight = floor + (1 - floor) * share
    if not weight.max() > 0:
        raise ValueError(
            f"The mask of {record.name} is black where the image is cropped: "
            "correct the mask, or use a mask_floor above 0."
        )
    return weight
