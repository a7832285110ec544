"""Measures of a picture, computed once and stored: hashes, sharpness, light, borders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image, ImageChops, ImageFilter, ImageStat
from torch import Tensor

from ..facts import Store
from ..pictures.decode import open_alpha, open_mask, open_small
from ..records import Record

SIDE = 512
CORNERS = ((0.0, 0.0), (0.7, 0.0), (0.0, 0.85), (0.7, 0.85))
"""Likely places of watermarks: left and top of a part 0.3 wide and 0.15 high."""
LAPLACIAN = ImageFilter.Kernel((3, 3), [0, 1, 0, 1, -4, 1, 0, 1, 0], scale=1, offset=128)
VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """The measures of one decoded picture."""

    content: str = ""
    """Hex SHA-256 of the file."""
    likeness: str = ""
    """256 bits in hex: whether each pixel of a 17 x 16 version is brighter than the next."""
    sharpness: float = 0.0
    """Variance of the Laplacian at a longer side of 512 pixels."""
    light: float = 0.0
    """Mean brightness, 0..1."""
    contrast: float = 0.0
    """Standard deviation of the brightness, 0..1."""
    color: tuple[float, float, float] = (0.0, 0.0, 0.0)
    border: float = 0.0
    """Share of the area in a border of one color."""
    opaque: float = 1.0
    """Mean opacity."""
    mask: float | None = None
    """Mean of the mask; None without a mask, -1 if it cannot be read."""
    corners: tuple[str, ...] = ()
    """64 bits of each corner in hex; empty for a flat corner."""
    error: str = ""
    """Why the picture cannot be decoded."""


def measure(record: Record, store: Store) -> Measures:
    """The measures of a picture, from the store if its file is unchanged."""
    kind = f"measures {VERSION} {record.transparency.value}"
    values: Any = store.get(kind, record.path)
    if values is None:
        values = asdict(_measured(record, store))
        store.put(kind, record.path, values)
    values = dict(values, color=tuple(values["color"]), corners=tuple(values["corners"]))
    return Measures(**(values | {"mask": _mask_mean(record, store)}))


def _measured(record: Record, store: Store) -> Measures:
    try:
        picture = open_small(record, SIDE)
    except ValueError as error:
        return Measures(error=str(error))
    gray = picture.convert("L")
    stats = ImageStat.Stat(gray)
    red, green, blue = (mean / 255 for mean in ImageStat.Stat(picture).mean)
    return Measures(
        content=store.content(record.path),
        likeness=difference_hash(gray, 17, 16),
        sharpness=ImageStat.Stat(gray.filter(LAPLACIAN)).var[0],
        light=stats.mean[0] / 255,
        contrast=stats.stddev[0] / 255,
        color=(red, green, blue),
        border=border_share(picture),
        opaque=_opacity(record),
        corners=tuple(_corner_hash(gray, place) for place in CORNERS),
    )


def difference_hash(gray: Image.Image, width: int, height: int) -> str:
    """(width - 1) x height bits in hex: each pixel compared with the one to its right (dHash)."""
    small = gray.resize((width, height), Image.Resampling.BOX).tobytes()
    bits = 0
    for y in range(height):
        row = small[y * width : (y + 1) * width]
        for left, right in zip(row, row[1:], strict=False):
            bits = bits << 1 | (left > right)
    return f"{bits:0{(width - 1) * height // 4}x}"


def border_share(picture: Image.Image) -> float:
    """The share of the area outside the box around everything that has not the corner's color."""
    flat = Image.new("RGB", picture.size, picture.getpixel((0, 0)))  # pyright: ignore
    difference = ImageChops.difference(picture, flat).convert("L")
    box = difference.point([0] * 13 + [255] * 243).getbbox()
    if box is None:
        return 1.0
    return 1 - (box[2] - box[0]) * (box[3] - box[1]) / (picture.width * picture.height)


def _corner_hash(gray: Image.Image, place: tuple[float, float]) -> str:
    left, top = int(place[0] * gray.width), int(place[1] * gray.height)
    right, bottom = left + int(0.3 * gray.width), top + int(0.15 * gray.height)
    if right - left < 9 or bottom - top < 8:
        return ""
    part = gray.crop((left, top, right, bottom))
    return difference_hash(part, 9, 8) if ImageStat.Stat(part).stddev[0] > 6 else ""


def _opacity(record: Record) -> float:
    if "alpha" not in record.traits:
        return 1.0
    return ImageStat.Stat(open_alpha(record)).mean[0] / 255


def _mask_mean(record: Record, store: Store) -> float | None:
    path = record.mask
    if path is None:
        return None
    mean: Any = store.get("mask", path)
    if mean is None:
        try:
            mask = open_mask(record)
            mean = ImageStat.Stat(mask).mean[0] / 255 if mask else 0.0
        except ValueError:
            mean = -1.0
        store.put("mask", path, mean)
    return float(mean)


def near_copies(
    measures: Sequence[Measures], limit: int = 20, color: float = 0.1
) -> list[list[int]]:
    """Clusters of two or more pictures that differ in at most `limit` of 256 bits.

    Bits say little about pictures of low contrast: their mean colors must agree too.
    """
    decoded = [i for i, measure in enumerate(measures) if measure.likeness]
    parents = {i: i for i in decoded}
    for i, j in _near_pairs([measures[i].likeness for i in decoded], limit):
        left, right = decoded[i], decoded[j]
        if _same_light(measures[left], measures[right], color):
            parents[_root(parents, right)] = _root(parents, left)
    groups: dict[int, list[int]] = {}
    for i in decoded:
        groups.setdefault(_root(parents, i), []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def _same_light(left: Measures, right: Measures, color: float) -> bool:
    if min(left.contrast, right.contrast) > 0.04:
        return True
    return all(abs(a - b) <= color / 2 for a, b in zip(left.color, right.color, strict=True))


def _near_pairs(hashes: Sequence[str], limit: int) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of hashes within a Hamming distance, by products in blocks."""
    if not hashes:
        return
    rows = torch.stack([signs(text) for text in hashes])
    bits, block = rows.shape[1], 1024
    for start in range(0, len(hashes), block):
        # dot = same - different = bits - 2 * different
        near = rows[start : start + block] @ rows[start:].T >= bits - 2 * limit
        left, right = near.triu(1).nonzero(as_tuple=True)
        for i, j in zip(left, right, strict=True):
            yield start + int(i), start + int(j)


def signs(text: str) -> Tensor:
    """The bits of a hash as a tensor (bits,) of -1 and 1."""
    data = torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
    bits = (data[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.flatten().float() * 2 - 1


def _root(parents: dict[int, int], item: int) -> int:
    while parents[item] != item:
        parents[item] = parents[parents[item]]
        item = parents[item]
    return item


def distance(left: str, right: str) -> int:
    """The number of bits in which two hashes differ."""
    return (int(left, 16) ^ int(right, 16)).bit_count()
