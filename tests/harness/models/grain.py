"""Noise for test pictures that does not hang on which tests ran before."""

from __future__ import annotations

import random

from PIL import Image


def grain(size: tuple[int, int], chance: random.Random) -> Image.Image:
    """Noise in gray; Pillow's own goes on from wherever it was left in this process."""
    noise = Image.frombytes("L", size, chance.randbytes(size[0] * size[1]))
    return Image.blend(Image.new("L", size, 128), noise, 0.8).convert("RGB")
