"""Pictures to latents, bucket by bucket in batches that are always the same, kept on disk."""

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
CURE = "make room or access there, or the pictures are encoded anew each time."

Member = tuple[Record, Crop]
"""A picture of a batch, and the part of it that is encoded."""


class LatentCache:
    """Latents on disk by what they are made of: the file's bytes, the crop and the codec."""

    def __init__(self, folder: Path, codec: str, store: Store):
        self.folder, self.codec, self.store = folder, codec, store
        """codec: digest of the autoencoder"""
        self._refused = False

    def paths(self, members: Sequence[Member]) -> list[Path]:
        """Where the latents of a batch are kept.

        The last bits of each depend on the whole batch, so the others are part of its name.
        """
        made_of = [self._made_of(record, crop) for record, crop in members]
        keys = made_of if len(made_of) == 1 else [repr((at, made_of)) for at in range(len(made_of))]
        return [self._path(key) for key in keys]

    def _made_of(self, record: Record, crop: Crop) -> str:
        made_of = (self.store.content(record.path), astuple(crop), self.codec)
        # The name colors what is seen through a picture.
        seen = (record.transparency.value, record.name) if "alpha" in record.traits else ()
        return repr((made_of, seen))

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def load(self, members: Sequence[Member]) -> list[Tensor] | None:
        """The latents of a batch, None when one of them is not there or damaged."""
        try:
            return [read_safetensors(path)[0]["latent"] for path in self.paths(members)]
        except (ValueError, KeyError, FileNotFoundError):
            return None

    def save(self, members: Sequence[Member], latents: Sequence[Tensor]) -> None:
        """Keep latents, each whole or not at all; a disk that refuses is told of once."""
        try:
            for path, latent in zip(self.paths(members), latents, strict=True):
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
    holds is not decoded, and each batch is kept as soon as it is made. A batch has always the
    same members, whatever is kept already: the last bits of a latent depend on its company, and
    a run that goes on has to find the bits that it began with.
    """
    records = dataset.records
    owners = range(len(records)) if owners is None else owners
    if len(crops) != len(owners):
        raise ValueError(
            f"{len(crops)} crops for {len(owners)} pictures: give one crop for each picture."
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
        before = None
        for members in [*batches, None]:
            coming = None if members is None else reader.submit(_read, members)
            if before is not None:
                yield before.result()
            before = coming


def _read(members: Sequence[Member]) -> Tensor:
    return torch.stack([load_pixels(record, crop) for record, crop in members])


def _encode(pixels: Tensor, codec: LatentCodec) -> list[Tensor]:
    with torch.no_grad():
        latents = codec.encode(pixels)
    # Copies, since the codec may have made them under inference mode, and each of its own.
    return [one.to("cpu", torch.float32, copy=True).contiguous() for one in latents]


def _batches(crops: Sequence[Crop], codec: LatentCodec) -> list[list[int]]:
    """Crops of one size after each other, since a device sets itself up for a size, in batches."""
    places: dict[tuple[int, int], int] = {}
    for crop in crops:
        places.setdefault((crop.width, crop.height), len(places))
    made = list[list[int]]()
    ordered = sorted(range(len(crops)), key=lambda i: places[crops[i].width, crops[i].height])
    for size, group in groupby(ordered, lambda i: (crops[i].width, crops[i].height)):
        same, count = list(group), codec.together(*size)
        made += [same[start : start + count] for start in range(0, len(same), count)]
    return made
