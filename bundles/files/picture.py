"""The one place that opens picture files, which anybody may have made."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile

# Pillow goes by the content and not by the name: of its other formats, some run programs (EPS) and
# some are open to any package that claims them (FITS, GRIB, HDF5, WMF).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000")
PLUGIN_FORMATS = ("HEIF", "JXL")
"""Formats that are read where another package has brought them"""
THUMBNAIL_FORMATS = ("JPEG", "PNG", "WEBP")

MOST_PIXELS = 210_000_000
"""The largest sensors have 200 million; converted to sRGB they take 8 bytes for each pixel"""
MOST_TRANSPARENT = MOST_PIXELS // 2
"""Pixels with transparency, which take 13 bytes"""
_MOST_THUMBNAIL = 2_000_000


class TooLarge(ValueError):
    """A picture of more pixels than are decoded; the sentence goes after the name of its file."""


def open_picture_file(path: Path) -> ImageFile.ImageFile:
    """A picture of a format that trainers use, not yet decoded; TooLarge before its memory is used.

    Other failures are Pillow's own.
    """
    image = _open(path, (*FORMATS, *PLUGIN_FORMATS))
    most = MOST_TRANSPARENT if has_alpha(image) else MOST_PIXELS
    if image.width * image.height > most:
        image.close()
        raise TooLarge(_too_large(image, most))
    return image


def open_thumbnail(data: bytes) -> ImageFile.ImageFile:
    """A small picture in JPEG, PNG or WebP, not yet decoded; TooLarge for one that is not small."""
    image = _open(io.BytesIO(data), THUMBNAIL_FORMATS)
    if image.width * image.height > _MOST_THUMBNAIL:
        raise TooLarge(_too_large(image, _MOST_THUMBNAIL))
    return image


def has_alpha(image: Image.Image) -> bool:
    """Whether parts of the picture may be transparent."""
    return image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info


def _open(source: Path | io.BytesIO, formats: Sequence[str]) -> ImageFile.ImageFile:
    Image.init()
    known = [name for name in formats if name in Image.OPEN]
    try:
        return Image.open(source, formats=known)
    except Image.DecompressionBombError as error:
        if isinstance(source, io.BytesIO):
            raise
        # Pillow's own limit is 179 million pixels; phones with more save JPEG.
        return _large_jpeg(source, error)


def _large_jpeg(path: Path, error: Exception) -> ImageFile.ImageFile:
    try:
        return JpegImageFile(path)
    except SyntaxError:
        reason = str(error).partition(", could be")[0]
        raise TooLarge(f"is too large for Pillow ({reason}): make it smaller.") from error


def _too_large(image: Image.Image, most: int) -> str:
    kind = " with transparency" if has_alpha(image) else ""
    return (
        f"has {image.width} x {image.height} pixels{kind}, and more than {most / 1e6:g} million "
        "are not decoded: make it smaller."
    )
