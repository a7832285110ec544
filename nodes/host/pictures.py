"""Pictures of Pillow as the host's IMAGE tensors, and back."""

from __future__ import annotations

from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from ...bundles.bundle import Bundle
from ...bundles.table_picture import data_uri


def to_tensor(picture: Image.Image) -> Tensor:
    """(height, width, 3) in 0..1"""
    flat = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return flat.view(picture.height, picture.width, 3).float() / 255


def to_picture(pixels: Tensor) -> Image.Image:
    """(height, width, 3) in 0..1, rounded as the host's Save Image does it."""
    return Image.fromarray((pixels.cpu() * 255).clamp(0, 255).to(torch.uint8).numpy())


def with_thumbnails(bundle: Bundle, pictures: Tensor | None) -> Bundle:
    """Small pictures for the header: the first is the file's, the others the names' in order."""
    if pictures is None:
        return bundle
    first, *others = [data_uri(to_picture(pixels)) for pixels in pictures]
    of_name = dict(zip(bundle.names, others, strict=False))
    entries = [
        replace(entry, thumbnail=of_name.get(name, entry.thumbnail))
        for name, entry in bundle.entry_of.items()
    ]
    return replace(bundle, thumbnail=first, entries=tuple(entries))
