"""Picture files: upright RGB pixels, and a check of a file that decodes none."""

from __future__ import annotations

import io
import struct
from pathlib import Path

from PIL import ExifTags, Image, ImageCms, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from .records import Record

# Pillow has no decoder of the last three; they are told apart from files that are no pictures.
EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
    | {".heic", ".heif", ".jxl"}
)
# What Pillow raises on files that are cut off, damaged or too large.
UNREADABLE = (
    *(OSError, EOFError, SyntaxError, ValueError, RuntimeError),
    *(struct.error, Image.DecompressionBombError),
)
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
JPEG_END = b"\xff\xd9"


def inspect_picture(path: Path) -> tuple[int, int]:
    """(width, height) of the upright picture; ValueError when the file is seen to be damaged."""
    try:
        image = Image.open(path)
        with image:
            check_mode(image)
            size = upright_size(image)
            check_complete(image)
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    return size


def open_picture(record: Record) -> Image.Image:
    """Decode the first frame as upright sRGB over white; ValueError naming a damaged file."""
    try:
        image = Image.open(record.path)
        with image:
            check_mode(image)
            picture = to_rgb(upright(image))
    except UNREADABLE as error:
        raise unreadable(record.path, error) from error
    if picture.size != (record.width, record.height):
        raise ValueError(
            f"{record.path.name} is {picture.width}x{picture.height} now and was "
            f"{record.width}x{record.height} when its folder was read: read the folder again."
        )
    return picture


def unreadable(path: Path, error: Exception) -> ValueError:
    """One sentence for a file that Pillow refuses, without the full path of Pillow's own."""
    reason = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "unknown or damaged format"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return ValueError(
        f"{path.name} cannot be read as a picture ({reason.rstrip('.')}): "
        "save it again as PNG or JPEG, or remove it."
    )


def check_mode(image: Image.Image) -> None:
    """Refuse pixels without a known range (floats, 32 bits) and color spaces without a rule."""
    known = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
    # Older Pillow opens 16-bit gray PNG as "I", which elsewhere means 32 bits.
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if image.mode not in known and not sixteen:
        raise ValueError(f"its pixels are of the kind {image.mode}, not 8 or 16 bits of color")


def check_complete(image: ImageFile.ImageFile) -> None:
    """Raise when the file is cut off, as far as that shows without decoding.

    PNG carries checksums, WebP and AVIF do not open. A whole JPEG has its end marker after the
    header, which is as far as Pillow has read; one without is decoded to see what is missing.
    """
    if image.format == "JPEG" and image.fp is not None and JPEG_END not in image.fp.read():
        image.load()
    else:
        image.verify()


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, from what lies before the pixels."""
    try:
        # PngImageFile.getexif decodes the picture to look behind it, so the method of its base.
        value: object = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except (SyntaxError, struct.error):  # damaged EXIF: the pixels are good as they lie
        return 1
    return value if isinstance(value, int) else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) once the EXIF orientation is applied."""
    width, height = image.size
    if isinstance(image, TiffImageFile):  # Pillow 11 and later give the turned size already
        tags = (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength)
        width, height = (int(image.tag_v2[tag]) for tag in tags)  # pyright: ignore
    return (height, width) if orientation(image) in (5, 6, 7, 8) else (width, height)


def upright(image: Image.Image) -> Image.Image:
    """Decode and apply the EXIF orientation."""
    # Pillow itself turns TIFF while it loads.
    turn = None if isinstance(image, TiffImageFile) else TRANSPOSE.get(orientation(image))
    image.load()
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """Bring every mode that `check_mode` passes to 8-bit sRGB, transparency over white."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):
        # Rounded from 0..65535; convert("L") would clip at 255.
        image = image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    alpha = None
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
    color = to_srgb(plain(image), profile)
    if alpha is None:
        return color
    return Image.composite(color, Image.new("RGB", image.size, "white"), alpha)


def plain(image: Image.Image) -> Image.Image:
    """Take transparency and palettes away: gray, RGB or CMYK, the modes that profiles speak of."""
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert by the embedded ICC profile; one that is broken or of another mode is ignored."""
    if not profile:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image.convert("RGB")
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))  # pyright: ignore
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image.convert("RGB")
    return converted or image.convert("RGB")
