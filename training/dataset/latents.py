"""Pictures to latents, bucket by bucket, each encoded once by itself and kept on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ...bundles.files import read_safetensors, replace_safetensors
from ..ports import LatentCodec
from .buckets import Crop, load_pixels
from .records import Dataset, Record
from .store import Store

LOG = logging.getLogger(__name__)
CURE = "make room or access there, or the pictures are encoded anew each time."


class LatentCache:
    """Latents on disk by what they are made of: the file's bytes, the crop and the codec."""

    def __init__(self, folder: Path, codec: str, store: Store):
        self.folder, self.codec, self.store = folder, codec, store
        """codec: digest of the autoencoder"""
        self._refused = False

    def path(self, record: Record, crop: Crop) -> Path:
        """Where the latent of one crop is kept."""
        made_of = (self.store.content(record.path), astuple(crop), self.codec)
        # The name colors what is seen through a picture.
        seen = (record.transparency.value, record.name) if "alpha" in record.traits else ()
        key = hashlib.sha256(repr((made_of, seen)).encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"

    def load(self, record: Record, crop: Crop) -> Tensor | None:
        """The latent, None when it is not there or damaged."""
        try:
            return read_safetensors(self.path(record, crop))[0].get("latent")
        except (ValueError, FileNotFoundError):
            return None

    def save(self, record: Record, crop: Crop, latent: Tensor) -> None:
        """Keep a latent, whole or not at all; a disk that refuses is told of once."""
        try:
            path = self.path(record, crop)
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_safetensors(path, {"latent": latent}, {})
        except (OSError, SafetensorError) as error:
            if not self._refused:
                LOG.warning("No latents can be kept in %s (%s): %s", self.folder, error, CURE)
            self._refused = True


def encode_latents(
    dataset: Dataset,
    crops: Sequence[Crop],
    codec: LatentCodec,
    *,
    owners: Sequence[int] | None = None,
    cache: LatentCache | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index of the crop, latent), fp32 on the CPU, (channels, height, width).

    `owners` names the record of each crop; without it there is one crop for each. What the cache
    holds is not decoded, and each latent is kept as soon as it is made. Each is encoded alone: in
    a batch its last bits depend on the others, so a run would differ with what is kept already.
    """
    records = dataset.records
    owners = range(len(records)) if owners is None else owners
    if len(crops) != len(owners):
        raise ValueError(
            f"{len(crops)} crops for {len(owners)} pictures: give one crop for each picture."
        )
    for index in _by_bucket(crops):
        record, crop = records[owners[index]], crops[index]
        latent = cache.load(record, crop) if cache else None
        if latent is None:
            latent = _encode(record, crop, codec)
            if cache:
                cache.save(record, crop, latent)
        yield index, latent


def _encode(record: Record, crop: Crop, codec: LatentCodec) -> Tensor:
    with torch.no_grad():
        (latent,) = codec.encode(load_pixels(record, crop)[None])
    # A copy, since the codec may have made it under inference mode.
    return latent.to("cpu", torch.float32, copy=True).contiguous()


def _by_bucket(crops: Sequence[Crop]) -> list[int]:
    """Crops of one size after each other, since a device sets itself up for a size."""
    places: dict[tuple[int, int], int] = {}
    for crop in crops:
        places.setdefault((crop.width, crop.height), len(places))
    return sorted(range(len(crops)), key=lambda i: places[crops[i].width, crops[i].height])
