"""Picture files: upright sRGB pixels, and checks that do not decode them."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, ImageCms, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from ....bundles.files.picture import TooLarge, has_alpha, open_picture_file
from ..facts import gone
from ..records import Record, Transparency

# Pillow cannot decode the last line; they are listed so that they are reported as pictures.
EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".j2k"}
    # Other names of the same formats, as browsers, cameras and scanners give them.
    | {".apng", ".jfif", ".jpe", ".jif", ".jfi", ".pjpeg", ".pjp", ".dib", ".jpx", ".jpf", ".j2c"}
    | {".heic", ".heics", ".heif", ".hif", ".jxl"}
)
# Raised by Pillow for files that are truncated, damaged or too large.
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
UNDECODED = {
    **dict.fromkeys((".heic", ".heics", ".heif", ".hif"), "pillow-heif"),
    ".jxl": "pillow-jxl-plugin",
}


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """What a picture file states before its pixels."""

    width: int
    """Width of the upright picture, in pixels."""
    height: int
    traits: frozenset[str]
    """Among alpha, animated, rotated, profile, deep (16 bits) and cmyk."""

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def inspect_picture(path: Path) -> PictureHeader:
    """Size and traits of the upright picture; ValueError if the file is visibly damaged."""
    try:
        image = open_picture_file(path)
        with image:
            check_mode(image)
            header = PictureHeader(*upright_size(image), frozenset(_traits(image)))
            check_complete(image)
    except UNREADABLE as error:
        raise unreadable_picture(path, error) from error
    return header


def _traits(image: ImageFile.ImageFile) -> Iterator[str]:
    if has_alpha(image):
        yield "alpha"
    # Phones put a second picture into JPEG files (MPO), which is not an animation.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        yield "animated"
    if orientation(image) != 1:
        yield "rotated"
    if image.info.get("icc_profile"):
        yield "profile"
    if image.mode.startswith("I"):
        yield "deep"
    if image.mode == "CMYK":
        yield "cmyk"


def open_picture(record: Record) -> Image.Image:
    """Decode the first frame as upright sRGB without transparency.

    Raises ValueError for a file that is damaged or changed its size since its folder was read.
    """
    return _decode(record, lambda image: to_rgb(image, record))


def open_mask(record: Record) -> Image.Image | None:
    """The mask of a picture, 8-bit gray in the picture's size; None if there is none.

    It comes from the mask's file, or from the opacity if the transparency serves as mask.
    """
    if record.mask is None:
        is_mask = record.transparency is Transparency.MASK and "alpha" in record.traits
        return open_alpha(record) if is_mask else None
    try:
        opened = open_picture_file(record.mask)
        with opened:
            check_mode(opened)
            turned = eight_bits(upright(opened))
            mask = _drawn_in_alpha(turned) or turned.convert("L")
    except FileNotFoundError as error:
        raise ValueError(gone(record.mask)) from error
    except UNREADABLE as error:
        raise unreadable_picture(record.mask, error) from error
    size = (record.width, record.height)
    return mask if mask.size == size else mask.resize(size, Image.Resampling.BILINEAR)


def open_alpha(record: Record) -> Image.Image:
    """The opacity of a picture, 8-bit gray."""
    return _decode(record, opacity)


def open_small(record: Record, side: int) -> Image.Image:
    """The picture of `open_picture` with its longer side at most `side`."""
    return shrunk(open_draft(record, side), side)


def open_draft(record: Record, side: int) -> Image.Image:
    """The picture of `open_picture`, or a smaller version of it from a JPEG file.

    Those are decoded at a fraction of their size, above `side`, which is several times faster.
    """
    return _decode(record, lambda image: to_rgb(image, record), draft=side)


def shrunk(picture: Image.Image, side: int) -> Image.Image:
    """The picture itself, changed so that its longer side is at most `side`."""
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return picture


def _drawn_in_alpha(image: Image.Image) -> Image.Image | None:
    """The alpha channel of a mask that is drawn there: in a single color, and not opaque."""
    if not has_alpha(image):
        return None
    low, high = image.convert("RGBA").convert("L").getextrema()
    alpha = image.convert("RGBA").getchannel("A")
    return alpha if low == high and alpha.getextrema()[0] != 255 else None


def _decode(
    record: Record, convert: Callable[[Image.Image], Image.Image], draft: int = 0
) -> Image.Image:
    try:
        image = open_picture_file(record.path)
        with image:
            check_mode(image)
            size = upright_size(image)
            if draft:
                image.draft(None, (draft, draft))  # pyright: ignore[reportArgumentType]
            picture = convert(upright(image))
    except FileNotFoundError as error:
        raise ValueError(gone(record.path)) from error
    except UNREADABLE as error:
        raise unreadable_picture(record.path, error) from error
    if size != (record.width, record.height):
        raise ValueError(
            f"{record.path.name} is {size[0]}x{size[1]} now and was "
            f"{record.width}x{record.height} when its folder was read: read the folder again."
        )
    return picture


def unreadable_picture(path: Path, error: Exception) -> ValueError:
    """A sentence for a file that Pillow cannot read, without the path that Pillow's own has."""
    if isinstance(error, TooLarge):
        return ValueError(f"{path.name} {error}")
    reason = str(error) or type(error).__name__
    plugin = UNDECODED.get(path.suffix.lower())
    if isinstance(error, UnidentifiedImageError):
        reason = f"Pillow reads it only with {plugin}" if plugin else "unknown or damaged format"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return ValueError(
        f"{path.name} cannot be read as an image ({reason.rstrip('.')}): "
        "save it again as PNG or JPEG, or remove it."
    )


def check_mode(image: Image.Image) -> None:
    """Raise ValueError for pixels of unknown range (floats, 32 bits) or unknown color space."""
    known = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
    # Older versions of Pillow open 16-bit gray PNG as "I", which otherwise means 32 bits.
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if image.mode not in known and not sixteen:
        raise ValueError(f"its pixels are in mode {image.mode}, not 8 or 16 bits of color")


def check_complete(image: ImageFile.ImageFile) -> None:
    """Raise if the file is truncated, as far as that shows without decoding it."""
    # PNG has checksums, and truncated WebP and AVIF do not open. A whole JPEG has an end marker
    # somewhere after the header, where Pillow has stopped reading; without one, decode it.
    if image.format == "JPEG" and image.fp is not None and JPEG_END not in image.fp.read():
        image.load()
    else:
        image.verify()


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, from the part of the file before the pixels."""
    try:
        # The method of the base class: PngImageFile.getexif decodes the picture to read on.
        value: object = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except (SyntaxError, struct.error):  # damaged EXIF: leave the pixels as they are
        return 1
    # Some programs write 0, which means nothing.
    return value if isinstance(value, int) and value in TRANSPOSE else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) after the EXIF orientation is applied."""
    width, height = image.size
    if isinstance(image, TiffImageFile):  # Pillow 11 and later report the rotated size
        tags = (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength)
        width, height = (int(image.tag_v2[tag]) for tag in tags)  # pyright: ignore
    return (height, width) if orientation(image) in (5, 6, 7, 8) else (width, height)


def upright(image: Image.Image) -> Image.Image:
    """Decode and apply the EXIF orientation."""
    # Pillow itself rotates TIFF while loading.
    turn = None if isinstance(image, TiffImageFile) else TRANSPOSE.get(orientation(image))
    image.load()
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image, record: Record) -> Image.Image:
    """Convert any mode that passes `check_mode` to 8-bit sRGB, with a backdrop for transparency."""
    profile = image.info.get("icc_profile")
    image, alpha = eight_bits(image), None
    if has_alpha(image):
        alpha = opacity(image)
    color = to_srgb(without_transparency(image), profile)
    if alpha is None:
        return color
    # Image.composite makes one more copy.
    behind = backdrop(record, image.size)
    behind.paste(color, mask=alpha)
    return behind


def opacity(image: Image.Image) -> Image.Image:
    """The opacity of a picture, 8-bit gray."""
    return (image if image.mode == "RGBA" else image.convert("RGBA")).getchannel("A")


def eight_bits(image: Image.Image) -> Image.Image:
    """Round 16-bit gray from 0..65535 to 0..255; other pictures are returned unchanged."""
    if not image.mode.startswith("I"):
        return image
    # convert("L") alone would clip at 255.
    return image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")


def backdrop(record: Record, size: tuple[int, int]) -> Image.Image:
    """What is visible through transparent places."""
    kind = record.transparency
    if kind is Transparency.CHECKER:
        squares = Image.new("L", (-(-size[0] // 16), -(-size[1] // 16)))
        squares.putdata([255 * ((x + y) % 2) // 4 + 160 for y in range(squares.height)
                         for x in range(squares.width)])  # fmt: skip
        large = squares.resize((squares.width * 16, squares.height * 16), Image.Resampling.NEAREST)
        return large.crop((0, 0, *size)).convert("RGB")
    if kind is Transparency.RANDOM:  # always the same for a picture, so that a run can be resumed
        color = hashlib.sha256(record.name.encode("utf-8", "surrogatepass")).digest()
        return Image.new("RGB", size, (color[0], color[1], color[2]))
    colors = {Transparency.BLACK: "black", Transparency.GRAY: "gray"}
    return Image.new("RGB", size, colors.get(kind, "white"))


def without_transparency(image: Image.Image) -> Image.Image:
    """Remove transparency and palettes: gray, RGB or CMYK, the modes that profiles describe."""
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert by the embedded ICC profile, unless it is damaged or for another mode."""
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
