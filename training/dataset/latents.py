"""Pictures to latents, bucket by bucket, each encoded once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

import torch
from torch import Tensor

from ...bundles.files import read_safetensors, replace_safetensors
from ..ports import LatentCodec
from .buckets import Crop, load_pixels
from .records import Dataset, Record
from .store import Store


class LatentCache:
    """Latents on disk by what they are made of: the file's bytes, the crop and the codec."""

    def __init__(self, folder: Path, codec: str, store: Store):
        self.folder, self.codec, self.store = folder, codec, store
        """codec: digest of the autoencoder"""

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
        """Keep a latent, whole or not at all."""
        path = self.path(record, crop)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_safetensors(path, {"latent": latent}, {})


def encode_latents(
    dataset: Dataset,
    crops: Sequence[Crop],
    codec: LatentCodec,
    batch_size: int,
    *,
    owners: Sequence[int] | None = None,
    cache: LatentCache | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index of the crop, latent), fp32 on the CPU, (channels, height, width).

    `owners` names the record of each crop; without it there is one crop for each. Crops of one
    bucket are encoded together, at most `batch_size` at once; only these are held in memory.
    What the cache holds is not decoded, and each batch is kept as soon as it is made.
    """
    records = dataset.records
    owners = range(len(records)) if owners is None else owners
    if batch_size < 1 or len(crops) != len(owners):
        raise ValueError(
            f"{len(crops)} crops for {len(owners)} pictures and batch_size "
            f"{batch_size}: give one crop for each picture and a batch_size of at least 1."
        )
    for group in _groups(crops):
        missing: list[int] = []
        for index in group:
            known = cache.load(records[owners[index]], crops[index]) if cache else None
            if known is None:
                missing.append(index)
            else:
                yield index, known
        for start in range(0, len(missing), batch_size):
            chunk = missing[start : start + batch_size]
            pictures = [records[owners[index]] for index in chunk]
            made = _encode(pictures, [crops[index] for index in chunk], codec)
            for index, record, latent in zip(chunk, pictures, made, strict=True):
                if cache:
                    cache.save(record, crops[index], latent)
                yield index, latent


def _encode(records: Sequence[Record], crops: Sequence[Crop], codec: LatentCodec) -> list[Tensor]:
    pixels = torch.stack([load_pixels(r, c) for r, c in zip(records, crops, strict=True)])
    with torch.no_grad():
        latents = codec.encode(pixels)
    # A copy for each: a view would keep the whole batch alive.
    return [latent.to("cpu", torch.float32, copy=True).contiguous() for latent in latents]


def _groups(crops: Sequence[Crop]) -> list[list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for item, crop in enumerate(crops):
        groups.setdefault((crop.width, crop.height), []).append(item)
    return list(groups.values())
