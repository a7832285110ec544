"""Latents of pictures, cached on disk and always encoded in the same batches."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
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
from ..records import Dataset, Record, listed
from .buckets import load_pixels

LOG = logging.getLogger(__name__)
CURE = "make room or access there, or the images are encoded again each time."

Member = tuple[Record, Crop]
"""A picture of a batch, and the part of it to encode."""


CHECK = "check"
"""Metadata of a cached latent: a digest of its name and values. Older files have none."""


class BrokenLatents(ValueError):
    """Latents with NaN or infinite values; `names` are those of their pictures."""

    def __init__(self, names: Sequence[str]):
        self.names = listed(names)
        super().__init__(
            f"The VAE gives NaN or infinite values for {self.names}: compute the VAE in a larger "
            "number format, or connect another one."
        )


class LatentCache:
    """Latents on disk, under a digest of the file's bytes, the crop and the codec.

    Only finite latents of pictures that did not change meanwhile are saved, and a file that is
    damaged or holds something else is encoded again, with a note.
    """

    def __init__(
        self,
        folder: Path,
        codec: str,
        store: Store,
        shape: Callable[[int, int], tuple[int, ...] | None] | None = None,
    ):
        self.folder, self.codec, self.store = folder, codec, store
        """`codec` is the digest of the autoencoder."""
        self._shape = shape
        self._is_failing = False
        self._damaged: list[str] = []
        self._changed: list[str] = []

    @property
    def notes(self) -> list[str]:
        """A line for what was cached and could not be used, and one for what is not cached."""
        notes: list[str] = []
        if self._damaged:
            notes.append(
                "The cached latents of these images were damaged or not finite, and were encoded "
                f"again: {listed(self._damaged)}."
            )
        if self._changed:
            notes.append(
                "These images changed while they were encoded, so that their latents are not "
                f"cached: {listed(self._changed)}. Queue the graph again to train on them as they "
                "are now."
            )
        return notes

    def paths(self, members: Sequence[Member]) -> list[Path]:
        """The files for the latents of a batch, as its pictures are now."""
        return self.paths_of(self.keys(members))

    def keys(self, members: Sequence[Member]) -> list[str]:
        """A key for each picture of a batch as it is now."""
        return [self._key(record, crop) for record, crop in members]

    def paths_of(self, keys: Sequence[str]) -> list[Path]:
        if len(keys) > 1:
            # The last bits of a latent depend on its batch, so its key names the whole batch.
            keys = [repr((index, list(keys))) for index in range(len(keys))]
        return [self._path(key) for key in keys]

    def _key(self, record: Record, crop: Crop) -> str:
        source = (self.store.content(record.path), astuple(crop), self.codec)
        # With transparency, the backdrop counts too, and a random one depends on the name.
        backdrop = (record.transparency.value, record.name) if "alpha" in record.traits else ()
        return repr((source, backdrop))

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def load(self, keys: Sequence[str], members: Sequence[Member]) -> list[Tensor] | None:
        """The latents of a batch; None if one of them is missing or damaged."""
        latents: list[Tensor] = []
        damaged: list[str] = []
        for path, (record, crop) in zip(self.paths_of(keys), members, strict=True):
            try:
                latents.append(self._read(path, crop))
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, OSError):
                damaged.append(record.name)
        self._damaged += damaged
        return latents if len(latents) == len(members) else None

    def _read(self, path: Path, crop: Crop) -> Tensor:
        tensors, metadata = read_safetensors(path)
        latent = tensors["latent"]
        fits = latent.dtype == torch.float32 and bool(latent.isfinite().all())
        if CHECK in metadata:
            fits = fits and metadata[CHECK] == _check(path, latent)
        elif self._shape and (shape := self._shape(crop.width, crop.height)):
            fits = fits and tuple(latent.shape) == shape
        if not fits:
            raise ValueError(f"{path} does not hold the latent that it is named after.")
        return latent

    def save(
        self, keys: Sequence[str], members: Sequence[Member], latents: Sequence[Tensor]
    ) -> None:
        """Save latents, each whole or not at all; only the first failure is logged.

        `keys` are those from before the pictures were read.
        """
        if changed := self._since(keys, members):
            self._changed += changed
            return
        try:
            for path, latent in zip(self.paths_of(keys), latents, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_safetensors(path, {"latent": latent}, {CHECK: _check(path, latent)})
        except (OSError, SafetensorError) as error:
            if not self._is_failing:
                LOG.warning("No latents can be saved in %s (%s): %s", self.folder, error, CURE)
            self._is_failing = True

    def _since(self, keys: Sequence[str], members: Sequence[Member]) -> list[str]:
        """The pictures that have other bytes than when the keys were made, or are gone."""
        changed: list[str] = []
        for key, (record, crop) in zip(keys, members, strict=True):
            try:
                same = self._key(record, crop) == key
            except ValueError:
                same = False
            if not same:
                changed.append(record.name)
        return changed


def _check(path: Path, latent: Tensor) -> str:
    """Hex SHA-256 of a cached latent's name, shape and values."""
    total = hashlib.sha256(repr((path.stem, tuple(latent.shape))).encode())
    total.update(latent.contiguous().numpy().data)
    return total.hexdigest()


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
    must find the bits with which it began. Raises BrokenLatents for latents that are not finite.
    """
    records = dataset.records
    owners = range(len(records)) if owners is None else owners
    if len(crops) != len(owners):
        raise ValueError(
            f"{len(crops)} crops for {len(owners)} images: give one crop for each image."
        )
    batches = _batches(crops, codec)
    members = [[(records[owners[i]], crops[i]) for i in batch] for batch in batches]
    keys, missing = list[list[str]](), list[int]()
    for number, batch in enumerate(batches):
        keys.append(cache.keys(members[number]) if cache else [])
        latents = cache.load(keys[number], members[number]) if cache else None
        if latents is None:
            missing.append(number)
        else:
            yield from zip(batch, latents, strict=True)
    for number, pixels in zip(missing, _read_ahead([members[n] for n in missing]), strict=True):
        latents = _encode(pixels, codec)
        _check_finite(members[number], latents)
        if cache:
            cache.save(keys[number], members[number], latents)
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


def _check_finite(members: Sequence[Member], latents: Sequence[Tensor]) -> None:
    pairs = zip(members, latents, strict=True)
    broken = [record.name for (record, _), latent in pairs if not latent.isfinite().all()]
    if broken:
        raise BrokenLatents(broken)


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
