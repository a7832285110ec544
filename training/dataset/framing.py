"""How pictures are cropped for training: buckets, anchor, views and masks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Anchor(str, Enum):
    """What a crop keeps when a picture does not fit its bucket."""

    CENTER = "center"
    TOP = "top"
    FACE = "face box"
    MASK = "mask box"
    RANDOM = "random"


@dataclass(frozen=True, kw_only=True, slots=True)
class Framing:
    """The settings of Prepare Images."""

    resolution: int = 512
    """Side of a square of the area that pictures are brought to."""
    bucket_step: int = 64
    """Sides of buckets are multiples of it."""
    min_side: int = 0
    """Shortest side of a bucket; 0 is half the resolution."""
    max_side: int = 0
    """Longest side of a bucket; 0 is twice the resolution."""
    upscale: bool = True
    """Enlarge pictures that are smaller than their bucket, rather than make a smaller bucket."""
    min_pictures: int = 1
    """Buckets with fewer pictures are merged into the nearest one."""
    anchor: Anchor = Anchor.CENTER
    views: int = 8
    """With the anchor random: crops of each picture, one of them drawn each time it is shown."""
    mask_floor: float = 0.1
    """What the loss still counts for where a mask is black."""

    def __post_init__(self) -> None:
        if self.bucket_step < 8 or self.bucket_step % 8:
            raise ValueError(f"bucket_step is {self.bucket_step}: use 8, 16, 32 or 64.")
        if self.resolution < self.bucket_step:
            raise ValueError(
                f"resolution is {self.resolution}: use at least the bucket step of "
                f"{self.bucket_step}."
            )
        for name in ("min_side", "max_side"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: use 0 (automatic) or more.")
        if self.max_side and max(self.min_side, self.bucket_step) > self.max_side:
            raise ValueError(
                f"max_side is {self.max_side}: use 0, or at least min_side and the bucket step."
            )
        for name in ("min_pictures", "views"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: use at least 1.")
        if not 0 <= self.mask_floor <= 1:
            raise ValueError(f"mask_floor is {self.mask_floor}: use 0 to 1.")
