"""Pictures of strangers: only formats that are pictures, and never more pixels than fit."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, features

from pack.bundles.files.picture import FORMATS, TooLarge, open_picture_file, open_thumbnail
from pack.bundles.table_picture import from_uri
from pack.training.dataset.folder.read import read_folder

SAVED = ("EPS", "PPM", "PCX", "TGA", "SGI", "ICO", "DDS", "MSP", "SPIDER", "XBM", "PDF")
# What Pillow only recognizes, and gives to whatever program or package has claimed it.
STUBS = {
    "FITS": b"SIMPLE  =                    T",
    "GRIB": b"GRIB\0\0\0\x01",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "BUFR": b"BUFR\0\0\0\x04",
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<4hH", 0, 0, 100, 100, 72),
    "EMF": b"\x01\0\0\0" + bytes(36) + b" EMF",
    "PSD": b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3),
    "PCD": bytes(2048) + b"PCD_",
    "MPEG": b"\0\0\x01\xb3\x01\0\x10",
}


def in_format(kind: str) -> bytes:
    if kind in STUBS:
        return STUBS[kind] + bytes(4000)
    image, file = Image.new("1" if kind in ("MSP", "XBM") else "L", (32, 32)), io.BytesIO()
    image.convert("F" if kind == "SPIDER" else image.mode).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", [*SAVED, *STUBS])
def test_other_formats_are_no_pictures_whatever_their_name(tmp_path: Path, kind: str):
    data = in_format(kind)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(data)
    (sentence,) = read_folder(tmp_path).skipped
    assert sentence.startswith("b.png cannot be read as an image (unknown or damaged format)")
    assert from_uri(f"data:image/png;base64,{base64.b64encode(data).decode()}") is None


@pytest.mark.parametrize("kind", FORMATS)
def test_the_formats_of_photos_are_opened_whatever_their_name(tmp_path: Path, kind: str):
    feature = {"AVIF": "avif", "JPEG2000": "jpg_2000"}.get(kind)
    if feature and not features.check(feature):
        pytest.skip(f"Pillow without {kind}")
    Image.new("RGB", (32, 16)).save(tmp_path / "a.png", format=kind)
    with open_picture_file(tmp_path / "a.png") as image:
        assert image.format == kind and image.size == (32, 16)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_a_thumbnail_is_a_jpeg_a_png_or_a_webp(kind: str):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    assert from_uri(f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}") is None


def png(width: int, height: int, color_type: int) -> bytes:
    """The beginning of a PNG; 2 is RGB and 6 has transparency."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


def jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header announces another size."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (png(11_000, 10_000, 6), "11000 x 10000 pixels with transparency, and more than 105 mill"),
        (png(15_000, 15_000, 2), "is too large for Pillow"),
        (jpeg(15_000, 15_000), "15000 x 15000 pixels, and more than 210 million are not decoded"),
        (jpeg(60_000, 60_000), "60000 x 60000 pixels, and more than 210 million are not decoded"),
    ],
    ids=["transparent", "png", "jpeg", "bomb"],
)
def test_a_picture_of_too_many_pixels_is_refused_by_name(
    tmp_path: Path, data: bytes, sentence: str
):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(data)
    (found,) = read_folder(tmp_path).skipped
    assert found.startswith("b.png ") and sentence in found and found.endswith("make it smaller.")


@pytest.mark.parametrize(
    "data",
    [jpeg(16_384, 12_288), jpeg(16_320, 12_240), png(14_204, 10_652, 2), png(11_662, 8_746, 6)],
    ids=["phone", "other phone", "medium format", "cut-out of a medium format"],
)
def test_the_pictures_of_the_largest_sensors_are_opened(tmp_path: Path, data: bytes):
    (tmp_path / "a.png").write_bytes(data)
    with open_picture_file(tmp_path / "a.png") as image:
        assert image.width > 10_000


def test_a_large_picture_is_no_thumbnail():
    with pytest.raises(TooLarge, match="2000 x 1001 pixels, and more than 2 million"):
        open_thumbnail(png(2000, 1001, 2))
