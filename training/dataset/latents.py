"""Pictures to latents, bucket by bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..ports import LatentCodec
from .buckets import Crop, load_pixels
from .records import Dataset


def encode_latents(
    dataset: Dataset, crops: Sequence[Crop], codec: LatentCodec, batch_size: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield (record index, latent) of every picture, fp32 on the CPU, (channels, height, width).

    Pictures of one bucket are encoded together, at most `batch_size` at once; only these are
    held in memory.
    """
    if batch_size < 1 or len(crops) != len(dataset.records):
        raise ValueError(
            f"{len(crops)} crops for {len(dataset.records)} pictures and batch_size "
            f"{batch_size}: give one crop for each picture and a batch_size of at least 1."
        )
    for group in _groups(crops):
        for start in range(0, len(group), batch_size):
            chunk = group[start : start + batch_size]
            pixels = torch.stack([load_pixels(dataset.records[i], crops[i]) for i in chunk])
            with torch.no_grad():
                latents = codec.encode(pixels)
            # A copy for each: a view would keep the whole batch alive.
            for item, latent in zip(chunk, latents, strict=True):
                yield item, latent.to("cpu", torch.float32, copy=True).contiguous()


def _groups(crops: Sequence[Crop]) -> list[list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for item, crop in enumerate(crops):
        groups.setdefault((crop.width, crop.height), []).append(item)
    return list(groups.values())
