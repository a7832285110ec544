"""A dataset from lists of images, and lists from a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor

from ....training.dataset.pictures.buckets import load_mask, load_pixels
from ....training.dataset.pictures.crops import plan_crops
from ....training.dataset.pictures.decode import open_mask, open_picture
from ....training.dataset.records import Dataset, Framing, Record
from ....training.ports import Crop
from ..events import watched
from ..folders import sweep_caches
from ..images import as_image, as_mask, keep_picture

Lists = tuple[list[Tensor], list[Tensor], list[str], list[str]]


class PixelSize(str, Enum):
    """Whether to return whole pictures or what is trained of them."""

    ORIGINAL = "original"
    TRAINED = "trained"


def to_lists(dataset: Dataset, size: PixelSize, resolution: int) -> Lists:
    """Pictures (1, h, w, 3), masks (1, h, w), captions and names; a missing mask is white."""
    crops = [each[0] for each in plan_crops(dataset.records, Framing(resolution=resolution))]
    images, masks = list[Tensor](), list[Tensor]()
    for record, crop in watched(zip(dataset.records, crops, strict=True), len(crops)):
        image, mask = _original(record) if size is PixelSize.ORIGINAL else _trained(record, crop)
        images.append(image)
        masks.append(torch.ones(image.shape[:3]) if mask is None else mask)
    captions = [record.caption for record in dataset.records]
    return images, masks, captions, [record.name for record in dataset.records]


def _original(record: Record) -> tuple[Tensor, Tensor | None]:
    mask = open_mask(record)
    return as_image(open_picture(record)), None if mask is None else as_mask(mask)


def _trained(record: Record, crop: Crop) -> tuple[Tensor, Tensor | None]:
    mask = load_mask(record, crop)
    return load_pixels(record, crop)[None], None if mask is None else mask[None]


def from_lists(
    images: Sequence[Tensor], name: str, captions: Sequence[str], masks: Sequence[Tensor]
) -> Dataset:
    """A dataset of every picture of every batch; ValueError if the lists have other lengths."""
    pictures = [picture for batch in images for picture in batch]
    flat = [mask for batch in masks for mask in (batch if batch.ndim == 3 else batch[None])]
    for kind, values in (("captions", captions), ("masks", flat)):
        if len(values) not in (0, 1, len(pictures)):
            raise ValueError(
                f"There are {len(values)} {kind} for {len(pictures)} images: give one for each."
            )
    sweep_caches()
    records: list[Record] = []
    for number, picture in watched(enumerate(pictures), len(pictures)):
        caption, mask = _at(captions, number) or "", _at(flat, number)
        records.append(
            Record(
                path=keep_picture(picture, f"Image {number + 1} of the list"),
                key=f"{number + 1:05}.png",
                caption=caption.strip(),
                caption_source="list" if caption else "",
                width=picture.shape[1],
                height=picture.shape[0],
                mask=None if mask is None else keep_picture(mask, f"Mask {number + 1}"),
                traits=frozenset({"alpha"} if picture.shape[2] == 4 else ()),
            )
        )
    return Dataset(name=name.strip() or "pictures", records=tuple(records))


def _at(values: Sequence, number: int):
    """A picture's value: its own, the only one, or None if there are none."""
    if not values:
        return None
    return values[0] if len(values) == 1 else values[number]
