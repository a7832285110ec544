"""Latents of pictures, cached on disk and always encoded in the same batches."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from itertools import groupby
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ....bundles.files.safetensors import read_safetensors, replace_safetensors
from ...ports import Crop, LatentCodec
from ..facts import Store
from ..records import Dataset, Record
from .buckets import load_pixels

LOG = logging.getLogger(__name__)
CURE = "make room or access there, or the images are encoded again each time."

Member = tuple[Record, Crop]
"""A picture of a batch, and the part of it to encode."""


class LatentCache:
    """Latents on disk, under a digest of the file's bytes, the crop and the codec."""

    def __init__(self, folder: Path, codec: str, store: Store):
        self.folder, self.codec, self.store = folder, codec, store
        """`codec` is the digest of the autoencoder."""
        self._is_failing = False

    def paths(self, members: Sequence[Member]) -> list[Path]:
        """The files for the latents of a batch."""
        keys = [self._key(record, crop) for record, crop in members]
        if len(keys) > 1:
            # The last bits of a latent depend on its batch, so its key names the whole batch.
            keys = [repr((index, keys)) for index in range(len(keys))]
        return [self._path(key) for key in keys]

    def _key(self, record: Record, crop: Crop) -> str:
        source = (self.store.content(record.path), astuple(crop), self.codec)
        # With transparency, the backdrop counts too, and a random one depends on the name.
        backdrop = (record.transparency.value, record.name) if "alpha" in record.traits else ()
        return repr((source, backdrop))

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def load(self, members: Sequence[Member]) -> list[Tensor] | None:
        """The latents of a batch; None if one of them is missing or damaged."""
        try:
            return [read_safetensors(path)[0]["latent"] for path in self.paths(members)]
        except (ValueError, KeyError, FileNotFoundError):
            return None

    def save(self, members: Sequence[Member], latents: Sequence[Tensor]) -> None:
        """Save latents, each whole or not at all; only the first failure is logged."""
        try:
            for path, latent in zip(self.paths(members), latents, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_safetensors(path, {"latent": latent}, {})
        except (OSError, SafetensorError) as error:
            if not self._is_failing:
                LOG.warning("No latents can be saved in %s (%s): %s", self.folder, error, CURE)
            self._is_failing = True


def encode_latents(
    dataset: Dataset,
    crops: Sequence[Crop],
    codec: LatentCodec,
    *,
    owners: Sequence[int] | None = None,
    cache: LatentCache | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index of the crop, latent), fp32 on the CPU, (channels, height, width).

    `owners` gives the index of each crop's record; by default there is one crop for each record.
    Cached latents are not decoded, and each batch is saved at once. A batch always has the same
    members, whatever is cached: the last bits of a latent depend on the others, and a resumed run
    must find the bits with which it began.
    """
    records = dataset.records
    owners = range(len(records)) if owners is None else owners
    if len(crops) != len(owners):
        raise ValueError(
            f"{len(crops)} crops for {len(owners)} images: give one crop for each image."
        )
    batches = _batches(crops, codec)
    members = [[(records[owners[i]], crops[i]) for i in batch] for batch in batches]
    missing = list[int]()
    for number, batch in enumerate(batches):
        latents = cache.load(members[number]) if cache else None
        if latents is None:
            missing.append(number)
        else:
            yield from zip(batch, latents, strict=True)
    for number, pixels in zip(missing, _read_ahead([members[n] for n in missing]), strict=True):
        latents = _encode(pixels, codec)
        if cache:
            cache.save(members[number], latents)
        yield from zip(batches[number], latents, strict=True)


def _read_ahead(batches: Sequence[Sequence[Member]]) -> Iterator[Tensor]:
    """The pictures of each batch, (batch, height, width, 3), read while another is encoded."""
    with ThreadPoolExecutor(1, "pictures") as reader:
        ready = None
        for members in [*batches, None]:
            following = None if members is None else reader.submit(_read, members)
            if ready is not None:
                yield ready.result()
            ready = following


def _read(members: Sequence[Member]) -> Tensor:
    return torch.stack([load_pixels(record, crop) for record, crop in members])


def _encode(pixels: Tensor, codec: LatentCodec) -> list[Tensor]:
    with torch.no_grad():
        latents = codec.encode(pixels)
    # Copies, since the codec may have made them in inference mode, as views of one tensor.
    return [latent.to("cpu", torch.float32, copy=True).contiguous() for latent in latents]


def _batches(crops: Sequence[Crop], codec: LatentCodec) -> list[list[int]]:
    """Indices of crops in batches, size after size, since a device has to set up for each size."""
    places: dict[tuple[int, int], int] = {}
    for crop in crops:
        places.setdefault((crop.width, crop.height), len(places))
    batches = list[list[int]]()
    ordered = sorted(range(len(crops)), key=lambda i: places[crops[i].width, crops[i].height])
    for size, group in groupby(ordered, lambda i: (crops[i].width, crops[i].height)):
        same, count = list(group), codec.together(*size)
        batches += [same[start : start + count] for start in range(0, len(same), count)]
    return batches
