"""Measures of a picture, computed once and stored: hashes, sharpness, light, borders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

import torch
from PIL import Image, ImageChops, ImageFilter, ImageStat
from torch import Tensor

from ..facts import Store
from ..pictures.decode import open_alpha, open_draft, open_mask, shrunk
from ..records import Record

SIDE = 512
CORNERS = ((0.0, 0.0), (0.7, 0.0), (0.0, 0.85), (0.7, 0.85))
"""Likely places of watermarks: left and top of a part 0.3 wide and 0.15 high."""
BLOCK = 1024
LAPLACIAN = ImageFilter.Kernel((3, 3), [0, 1, 0, 1, -4, 1, 0, 1, 0], scale=1, offset=128)
STRAIGHT = 0.02
"""How far from straight the edge of a bar may be, as a share of the picture inside the bars."""
NUMBERS = ("sharpness", "light", "contrast", "tones", "border", "opaque")
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
    tones: float = 0.0
    """Bits of the histograms of the colors, less for gaps; changes of light make it smaller. 0 if
    an earlier version measured the picture."""
    color: tuple[float, float, float] = (0.0, 0.0, 0.0)
    border: float = 0.0
    """Share of the area in bars of one color at opposite sides."""
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
    try:
        values: Any = store.fact(
            kind, record.path, lambda: asdict(_measured(record, store)), _are_measures
        )
    except (ValueError, OSError) as error:
        # Not stored: what cannot be read now may be readable the next time.
        return Measures(error=str(error))
    values = dict(values, color=tuple(values["color"]), corners=tuple(values["corners"]))
    return Measures(**(values | {"mask": _mask_mean(record, store)}))


def _are_measures(values: Any) -> bool:
    """Whether stored values are those of a decoded picture, all of them and finite.

    Earlier versions measured no tones, and took a plain sky for a border.
    """
    if not isinstance(values, dict):
        return False
    row = cast("dict[str, Any]", values)
    missing = {field.name for field in fields(Measures)} ^ row.keys()
    if missing and (missing != {"tones"} or row.get("border", 1) > 0.05) or row["error"]:
        return False
    if not isinstance(row["color"], (list, tuple)) or not isinstance(row["corners"], (list, tuple)):
        return False
    color = list(cast("list[Any]", row["color"]))
    numbers = [row.get(name, 0.0) for name in NUMBERS] + color
    return all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers)


def _measured(record: Record, store: Store) -> Measures:
    """The measures of a picture; ValueError if it cannot be decoded."""
    whole = open_draft(record, SIDE)
    levels = tones(whole)
    picture = shrunk(whole, SIDE)
    gray = picture.convert("L")
    stats = ImageStat.Stat(gray)
    red, green, blue = (mean / 255 for mean in ImageStat.Stat(picture).mean)
    return Measures(
        content=store.content(record.path),
        likeness=difference_hash(gray, 17, 16),
        sharpness=_sharpness(gray),
        light=stats.mean[0] / 255,
        contrast=stats.stddev[0] / 255,
        tones=levels,
        color=(red, green, blue),
        border=border_share(picture),
        opaque=_opacity(record),
        corners=tuple(_corner_hash(gray, place) for place in CORNERS),
    )


def _sharpness(gray: Image.Image) -> float:
    edges = gray.filter(LAPLACIAN)
    if min(gray.size) > 2:  # Pillow leaves the outermost pixels as they are
        edges = edges.crop((1, 1, gray.width - 1, gray.height - 1))
    return ImageStat.Stat(edges).var[0]


def tones(picture: Image.Image) -> float:
    """How many levels of red, green and blue are in use, in bits, the mean of the three.

    A change of light or contrast merges levels, which lowers the entropy of a histogram, or leaves
    gaps between them, which shows when the histogram is smoothed: then its entropy rises.
    """
    rows = torch.tensor(picture.histogram(), dtype=torch.float64).view(-1, 1, 256)
    smooth = torch.nn.functional.avg_pool1d(rows, 3, 1, 1)
    return float((2 * _entropy(rows) - _entropy(smooth)).mean())


def _entropy(rows: Tensor) -> Tensor:
    """The entropy in bits of each row of (..., n) numbers that are not negative."""
    shares = rows / rows.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1) / math.log(2)  # pyright: ignore


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
    """The share of the area in bars of the corner's color: above and below, or left and right.

    A bar has a straight edge; a plain sky, or a plain ground around a subject, has none.
    """
    flat = Image.new("RGB", picture.size, picture.getpixel((0, 0)))  # pyright: ignore
    difference = ImageChops.difference(picture, flat).convert("L")
    other = difference.point([0] * 13 + [255] * 243)
    box = other.getbbox()
    if box is None:
        return 1.0
    inside = torch.frombuffer(bytearray(other.crop(box).tobytes()), dtype=torch.uint8)
    rows = inside.view(box[3] - box[1], box[2] - box[0]) > 0
    height, width = rows.shape
    if not (_has_straight_ends(rows) and min(box[1], picture.height - box[3]) > 0):
        height = picture.height
    if not (_has_straight_ends(rows.T) and min(box[0], picture.width - box[2]) > 0):
        width = picture.width
    return 1 - width * height / (picture.width * picture.height)


def _has_straight_ends(rows: Tensor) -> bool:
    """Whether most columns of a (height, width) mask begin and end near its first and last row."""
    near = max(1, math.ceil(STRAIGHT * len(rows)))
    ends = (rows[:near].any(0), rows[-near:].any(0))
    return all(float(end.float().mean()) > 0.5 for end in ends)


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

    def mean() -> float:
        mask = open_mask(record)
        return ImageStat.Stat(mask).mean[0] / 255 if mask else 0.0

    try:
        return float(store.fact("mask 2", path, mean, _is_share))
    except ValueError:
        return -1.0


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1


def near_copies(
    measures: Sequence[Measures], limit: int = 20, color: float = 0.1
) -> list[list[int]]:
    """Clusters of two or more pictures that differ in at most `limit` of 256 bits.

    Bits say little about pictures of low contrast: their mean colors must agree too.
    """
    decoded = [i for i, measure in enumerate(measures) if measure.likeness]
    if not decoded:
        return []
    chosen = [measures[i] for i in decoded]
    rows = torch.stack([signs(measure.likeness) for measure in chosen])
    light = _Light(chosen, color)
    labels, pending = torch.arange(len(rows)), torch.arange(len(rows))
    while len(pending):
        before = labels.clone()
        met: list[Tensor] = []
        for part in cast("tuple[Tensor, ...]", pending.split(BLOCK)):  # pyright: ignore
            # dot = same - different = bits - 2 * different
            near = (rows[part] @ rows.T >= rows.shape[1] - 2 * limit) & light.alike(part)
            met.append(part[near.sum(1) > 1])
            lowest = torch.where(near, labels, len(rows)).amin(1)
            # Also for the picture that gave this one its label: whole clusters join at once.
            labels.scatter_reduce_(0, labels[part], lowest, "amin")
            labels[part] = torch.minimum(labels[part], lowest)
        while not torch.equal(labels, labels[labels]):
            labels = labels[labels]
        pending = torch.cat(met) if not torch.equal(labels, before) else met[0][:0]
    groups: dict[int, list[int]] = {}
    for i, label in zip(decoded, cast("list[int]", labels.tolist()), strict=True):  # pyright: ignore
        groups.setdefault(label, []).append(i)
    return [group for group in groups.values() if len(group) > 1]


class _Light:
    """Whether the mean colors of pictures agree, which matters where a contrast is low."""

    def __init__(self, measures: Sequence[Measures], color: float):
        self._colors = torch.tensor([m.color for m in measures], dtype=torch.float64)
        self._low = torch.tensor([m.contrast <= 0.04 for m in measures])
        self._most = color / 2

    def alike(self, part: Tensor) -> Tensor:
        """(part, all) for each picture of a part and all pictures."""
        same = torch.ones(len(part), len(self._low), dtype=torch.bool)
        if self._low.any():
            for channel in self._colors.T:
                same &= (channel[part, None] - channel).abs() <= self._most
            same |= ~(self._low[part, None] | self._low)
        return same


def signs(text: str) -> Tensor:
    """The bits of a hash as a tensor (bits,) of -1 and 1."""
    data = torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
    bits = (data[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.flatten().float() * 2 - 1


def distance(left: str, right: str) -> int:
    """The number of bits in which two hashes differ."""
    return (int(left, 16) ^ int(right, 16)).bit_count()
