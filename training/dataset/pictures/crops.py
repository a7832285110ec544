"""The crops of each picture to train: its bucket, and positions from its anchor."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

from PIL import Image

from ...ports import Crop
from ...randomness import generator
from ..records import Anchor, Framing, Record, listed
from .buckets import bucket_sizes, cover, nearest_bucket
from .decode import open_mask

Size = tuple[int, int]

MUCH_KEPT = 0.75
"""A crop that keeps less than this share of a picture's area is reported."""


def plan_crops(records: Sequence[Record], default: Framing) -> list[tuple[Crop, ...]]:
    """The crops of each picture: several for a random anchor, else one.

    `default` is used for pictures without settings of their own. Nothing is decoded except masks,
    for the anchor that needs them.
    """
    framings = [record.framing or default for record in records]
    buckets: dict[int, Size] = {}
    for framing in dict.fromkeys(framings):
        own = [i for i, other in enumerate(framings) if other == framing]
        chosen = choose_buckets([(records[i].width, records[i].height) for i in own], framing)
        buckets |= dict(zip(own, chosen, strict=True))
    return [
        _crops(record, framing, buckets[i])
        for i, (record, framing) in enumerate(zip(records, framings, strict=True))
    ]


def choose_buckets(sizes: Sequence[Size], framing: Framing) -> list[Size]:
    """The bucket of each picture size, (width, height); small buckets are merged."""
    full = bucket_sizes(framing.resolution, framing.bucket_step, framing.min_side, framing.max_side)
    chosen = [_bucket(size, full, framing) for size in sizes]
    return _merged(sizes, chosen, framing)


def _bucket(size: Size, full: Sequence[Size], framing: Framing) -> Size:
    bucket = nearest_bucket(*size, full)
    if framing.upscale or (bucket[0] <= size[0] and bucket[1] <= size[1]):
        return bucket
    # A smaller bucket in the picture's own shape; one step is the least, even if that enlarges.
    scale = min(1.0, framing.resolution / (size[0] * size[1]) ** 0.5)
    step = framing.bucket_step
    return max(step, int(size[0] * scale) // step * step), max(
        step, int(size[1] * scale) // step * step
    )


def _merged(sizes: Sequence[Size], chosen: list[Size], framing: Framing) -> list[Size]:
    """Move the pictures of the smallest bucket until every bucket is full enough or one is left."""
    stuck = set[Size]()
    while True:
        counts = Counter(chosen)
        small = [b for b, n in counts.items() if n < framing.min_pictures and b not in stuck]
        if not small or len(counts) == 1:
            return chosen
        bucket = min(small, key=lambda b: (counts[b], b))
        others = [other for other in counts if other != bucket]
        moved = [
            _target(size, others, framing) if old == bucket else old
            for size, old in zip(sizes, chosen, strict=True)
        ]
        if any(target is None for target in moved):
            stuck.add(bucket)
            continue
        chosen = [target for target in moved if target is not None]


def _target(size: Size, others: Iterable[Size], framing: Framing) -> Size | None:
    fitting = [b for b in others if framing.upscale or (b[0] <= size[0] and b[1] <= size[1])]
    return nearest_bucket(*size, fitting) if fitting else None


def _crops(record: Record, framing: Framing, bucket: Size) -> tuple[Crop, ...]:
    size = (record.width, record.height)
    if framing.anchor is not Anchor.RANDOM:
        return (cover(*size, bucket, _focus(record, framing.anchor)),)
    crops: list[Crop] = []
    for number in range(framing.views):
        rng = random.Random(generator("crop", record.name, number).initial_seed())
        whole = cover(*size, bucket).resized
        # Draw offsets, not focus points: near the edges many points give the same crop.
        left, top = (rng.randint(0, w - b) for w, b in zip(whole, bucket, strict=True))
        focus = ((left + bucket[0] / 2) / whole[0], (top + bucket[1] / 2) / whole[1])
        crops.append(cover(*size, bucket, focus))
    return tuple(dict.fromkeys(crops))


def _focus(record: Record, anchor: Anchor) -> tuple[float, float]:
    """The point to center the crop on, in shares of the picture."""
    if anchor is Anchor.TOP:
        return 0.5, 0.0
    if anchor is Anchor.FACE and record.boxes:
        box = max(record.boxes, key=lambda b: b.width * b.height)
        x, y = box.left + box.width / 2, box.top + box.height / 2
        return x / record.width, y / record.height
    if anchor is Anchor.MASK:
        mask = open_mask(record)
        return (0.5, 0.5) if mask is None else _middle(mask)
    return 0.5, 0.5


def _middle(mask: Image.Image) -> tuple[float, float]:
    """The middle of the box around everything that is more white than black."""
    box = mask.point([0] * 128 + [255] * 128).getbbox() or (0, 0, *mask.size)
    return (box[0] + box[2]) / 2 / mask.width, (box[1] + box[3]) / 2 / mask.height


def kept_share(crop: Crop) -> float:
    """The share of the picture's area that its crop keeps."""
    width, height = crop.resized
    return crop.width * crop.height / (width * height)


def crop_notes(records: Sequence[Record], crops: Sequence[Crop]) -> list[str]:
    """A line for the pictures that lose much of their area, if any, the most cropped first."""
    pairs = [(kept_share(c), r, c) for r, c in zip(records, crops, strict=True)]
    cropped = sorted((p for p in pairs if p[0] < MUCH_KEPT), key=lambda pair: pair[0])
    if not cropped:
        return []
    shown = [f"{r.name} ({share:.0%} at {c.width} x {c.height})" for share, r, c in cropped]
    return [
        f"Only a part of these images is trained, since they are cropped to their buckets: "
        f"{listed(shown)}. In Prepare Images, lower min_pictures, raise max_side or choose "
        "another anchor, or crop them yourself."
    ]


def enlargement(crop: Crop) -> float:
    """The factor by which a side grows; above 1 the picture is smaller than its bucket."""
    return crop.resized[0] / crop.original_width


def histogram(crops: Iterable[Crop]) -> str:
    """One line for each bucket with its number of pictures, the fullest first."""
    counts = Counter((crop.width, crop.height) for crop in crops)
    most = max(counts.values(), default=1)
    rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    return "\n".join(
        f"{width:>5} x {height:<5} {count:>6}  {'#' * max(1, round(24 * count / most))}"
        for (width, height), count in rows
    )
