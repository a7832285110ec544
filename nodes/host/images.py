"""Pillow's pictures as the host's IMAGE and MASK tensors, and as files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ...bundles.files.atomic import replace_file
from ...training.dataset.pictures.decode import inspect_picture
from ...training.dataset.pictures.pixels import to_picture, to_tensor
from .folders import user_folder

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
_HANDED_OUT: set[Path] = set()


def as_image(picture: Image.Image) -> Tensor:
    """An IMAGE of one picture: (1, height, width, 3) in 0..1."""
    return to_tensor(picture.convert("RGB"))[None]


def as_mask(mask: Image.Image) -> Tensor:
    """A MASK of one picture: (1, height, width) in 0..1."""
    return to_tensor(mask.convert("L"))[None, ..., 0]


def save_picture(path: Path, picture: Image.Image, **options: Any) -> None:
    """Save a picture whole or not at all, in the format of its path, with Pillow's options."""
    kind = FORMATS[path.suffix]
    replace_file(path, lambda draft: picture.save(draft, format=kind, **options))


def keep_picture(pixels: Tensor, what: str = "The image") -> Path:
    """Save pixels in the user's folder as a PNG that is named by its content and written once.

    Raises ValueError, which begins with `what`, for pixels that are not finite.
    """
    if not pixels.isfinite().all():
        raise ValueError(
            f"{what} has NaN or infinite values: look at the node that made it. A VAE that "
            "overflows needs ComfyUI's --fp32-vae."
        )
    picture = to_picture(pixels)
    name = hashlib.sha256(repr((picture.size, picture.mode)).encode() + picture.tobytes())
    path = user_folder("pictures") / f"{name.hexdigest()[:32]}.png"
    _HANDED_OUT.add(path)
    if not is_whole(path, picture.size):
        save_picture(path, picture, compress_level=1)
    return path


def is_handed_out(path: Path) -> bool:
    """Whether a node has got this file since the server started: the host may hold its output."""
    return path in _HANDED_OUT


def is_whole(path: Path, size: tuple[int, int] | None = None) -> bool:
    """Whether a file of ours is an undamaged image, of this size if one is given."""
    try:
        header = inspect_picture(path)
    except ValueError:
        return False
    return size is None or header.size == size
