"""Every kind of picture file becomes the upright 8-bit RGB picture that a viewer shows."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageCms, ImageOps, features

from pack.training.dataset.folder.read import read_folder
from pack.training.dataset.pictures.decode import inspect_picture, open_picture
from pack.training.dataset.records import Record

SIZE = (24, 16)
NEEDS_AVIF = pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
AVIF = pytest.param("avif", marks=NEEDS_AVIF)


def read(path: Path) -> Image.Image:
    width, height = inspect_picture(path).size
    picture = open_picture(Record(path=path, caption="", width=width, height=height))
    assert picture.mode == "RGB" and picture.size == (width, height)
    return picture


def colors(picture: Image.Image) -> set[tuple[int, ...]]:
    found = picture.getcolors()
    assert found is not None
    return {color for _, color in found}


def quadrants() -> Image.Image:
    """Four colors, so that no rotation or mirroring looks like another."""
    picture = Image.new("RGB", SIZE, "white")
    for place, color in zip([(0, 0), (12, 0), (0, 8)], ["red", "lime", "blue"], strict=True):
        picture.paste(color, (*place, place[0] + 12, place[1] + 8))
    return picture


def oriented(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if path.suffix in (".jpg", ".webp", ".avif") else {}
    quadrants().save(path, exif=exif, **options)
    return path


def corners(picture: Image.Image) -> list[tuple[int, ...]]:
    """The colors of the four corners, rounded to what lossy formats keep."""
    width, height = picture.size
    places = [(2, 2), (width - 3, 2), (2, height - 3), (width - 3, height - 3)]
    return [tuple(round(value / 255) for value in picture.getpixel(place)) for place in places]


R, G, B, W = (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)
# The eight orientations of the EXIF standard, for a picture stored as R G over B W.
SHOWN = {
    1: [R, G, B, W],
    2: [G, R, W, B],
    3: [W, B, G, R],
    4: [B, W, R, G],
    5: [R, B, G, W],
    6: [B, R, W, G],
    7: [W, G, B, R],
    8: [G, W, R, B],
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", AVIF])
@pytest.mark.parametrize("orientation", SHOWN)
def test_the_exif_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int):
    picture = read(oriented(tmp_path / f"x.{suffix}", orientation))
    assert picture.size == (SIZE if orientation < 5 else SIZE[::-1])
    assert corners(picture) == SHOWN[orientation]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_damaged_exif_block_does_not_spoil_the_picture(tmp_path: Path, suffix: str):
    quadrants().save(tmp_path / f"x.{suffix}", exif=b"Exif\0\0XX\0\x2a\0\0\0\x08")
    assert read(tmp_path / f"x.{suffix}").size == SIZE


def test_the_header_is_enough_to_inspect_a_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = oriented(tmp_path / "x.png", 6)
    quadrants().save(tmp_path / "plain.png")
    quadrants().save(tmp_path / "x.jpg")

    def refuse(*args: object):
        raise AssertionError("decoded the picture")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    assert inspect_picture(path).size == (16, 24)
    assert inspect_picture(tmp_path / "plain.png").size == SIZE
    assert inspect_picture(tmp_path / "x.jpg").size == SIZE


def test_transparency_is_flattened_over_white(tmp_path: Path):
    picture = Image.new("RGBA", SIZE, (0, 255, 0, 0))
    picture.putpixel((0, 0), (200, 100, 0, 255))
    picture.putpixel((1, 0), (200, 100, 0, 128))
    picture.save(tmp_path / "x.png")
    found = read(tmp_path / "x.png")
    assert found.getpixel((0, 0)) == (200, 100, 0)
    expected = [round(value * 128 / 255 + 255 * 127 / 255) for value in (200, 100, 0)]
    assert found.getpixel((1, 0)) == pytest.approx(expected, abs=1)
    assert found.getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "color", "options"),
    [
        ("RGBA", (9, 9, 9, 0), {}),
        ("LA", (9, 0), {}),
        ("P", 3, {"transparency": 3}),
        ("L", 9, {"transparency": 9}),
        ("RGB", (9, 9, 9), {"transparency": (9, 9, 9)}),
        ("1", 0, {"transparency": 0}),
    ],
)
def test_every_kind_of_transparency_counts(tmp_path: Path, mode: str, color, options: dict):
    picture = Image.new(mode, SIZE, color)
    if mode == "P":
        picture.putpalette([9] * 768)
    picture.save(tmp_path / "x.png", **options)
    assert colors(read(tmp_path / "x.png")) == {(255, 255, 255)}


def test_a_palette_becomes_its_colors(tmp_path: Path):
    quadrants().quantize(8).save(tmp_path / "x.png")
    assert corners(read(tmp_path / "x.png")) == [R, G, B, W]


@pytest.mark.parametrize(("mode", "color"), [("L", 77), ("1", 1), ("LA", (77, 255))])
def test_gray_becomes_rgb(tmp_path: Path, mode: str, color):
    Image.new(mode, SIZE, color).save(tmp_path / "x.png")
    assert colors(read(tmp_path / "x.png")) == {(255,) * 3 if mode == "1" else (77,) * 3}


def test_cmyk_becomes_rgb(tmp_path: Path):
    Image.new("CMYK", SIZE, (0, 255, 255, 0)).save(tmp_path / "x.tif")
    assert colors(read(tmp_path / "x.tif")) == {(255, 0, 0)}


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_and_rounded(tmp_path: Path, suffix: str):
    values = [0, 128, 129, 257, 1000, 30000, 65406, 65535]
    picture = Image.frombytes("I;16", (8, 1), struct.pack("<8H", *values))
    picture.save(tmp_path / f"x.{suffix}")
    found = read(tmp_path / f"x.{suffix}")
    assert [found.getpixel((x, 0)) for x in range(8)] == [(round(v / 257),) * 3 for v in values]


def test_big_endian_sixteen_bits_are_the_same(tmp_path: Path):
    Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 1000, 30000)).save(tmp_path / "x.tif")
    found = read(tmp_path / "x.tif")
    assert [found.getpixel((x, 0))[0] for x in range(2)] == [4, 117]


def test_sixteen_bit_colors_are_read(tmp_path: Path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">3H", 65535, 25700, 0)))
    data = b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(data)
    assert read(tmp_path / "x.png").getpixel((0, 0)) == (255, 100, 0)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, mode: str):
    Image.new(mode, SIZE).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=rf"x\.tif cannot be read .*in mode {mode}"):
        inspect_picture(tmp_path / "x.tif")


def test_an_animation_gives_its_first_frame(tmp_path: Path):
    frames = [Image.new("RGB", SIZE, color) for color in ("red", "blue", "lime")]
    for suffix in ("gif", "webp", "png"):
        path = tmp_path / f"x.{suffix}"
        options = {"lossless": True} if suffix == "webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, **options)
        assert colors(read(path)) == {(255, 0, 0)}, suffix


def swapped_profile() -> bytes:
    """An sRGB profile whose red and green primaries are exchanged, under another name."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name in (b"sRGB", "sRGB".encode("utf-16-be")):
        profile = profile.replace(name, name.replace(b"s", b"x"))
    table = profile[:300].replace(b"rXYZ", b"temp").replace(b"gXYZ", b"rXYZ")
    return table.replace(b"temp", b"gXYZ") + profile[300:]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colors_are_converted_by_their_profile(tmp_path: Path, suffix: str):
    path = tmp_path / f"x.{suffix}"
    Image.new("RGB", SIZE, (255, 0, 0)).save(path, icc_profile=swapped_profile())
    assert read(path).getpixel((0, 0)) == pytest.approx((0, 255, 0), abs=2)


def test_transparent_pictures_are_converted_by_their_profile_too(tmp_path: Path):
    picture = Image.new("RGBA", SIZE, (255, 0, 0, 255))
    picture.putpixel((0, 0), (255, 0, 0, 0))
    picture.save(tmp_path / "x.png", icc_profile=swapped_profile())
    found = read(tmp_path / "x.png")
    assert found.getpixel((5, 5)) == pytest.approx((0, 255, 0), abs=2)
    assert found.getpixel((0, 0)) == (255, 255, 255)


def test_an_srgb_profile_changes_nothing_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    picture = Image.effect_noise(SIZE, 100).convert("RGB")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.save(tmp_path / "x.png", icc_profile=profile)
    monkeypatch.delattr(ImageCms, "profileToProfile")
    assert read(tmp_path / "x.png").tobytes() == picture.tobytes()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("profile", [b"no profile", swapped_profile()[:200]])
def test_a_broken_profile_is_ignored(tmp_path: Path, mode: str, profile: bytes):
    Image.new(mode, SIZE, "white").save(tmp_path / "x.png", icc_profile=profile)
    assert colors(read(tmp_path / "x.png")) == {(255, 255, 255)}


def test_a_profile_of_another_mode_is_ignored(tmp_path: Path):
    Image.new("L", SIZE, 77).save(tmp_path / "x.png", icc_profile=swapped_profile())
    assert colors(read(tmp_path / "x.png")) == {(77, 77, 77)}


def test_a_picture_beyond_the_limit_of_the_decoder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    quadrants().save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(
        ValueError, match=r"x\.png is too large for Pillow \(Image size .*: make it"
    ):
        inspect_picture(tmp_path / "x.png")


def test_a_picture_that_changed_on_disk_is_named(tmp_path: Path):
    ImageOps.expand(quadrants(), 1).save(tmp_path / "x.png")
    record = Record(path=tmp_path / "x.png", caption="", width=24, height=16)
    with pytest.raises(
        ValueError, match=r"x\.png is 26x18 now and was 24x16 .*read the folder again"
    ):
        open_picture(record)


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_orientation_that_means_nothing_turns_nothing(tmp_path: Path, value: int):
    image = Image.new("RGB", (16, 8))
    exif = image.getexif()
    exif[274] = value
    image.save(tmp_path / "a.jpg", exif=exif)
    (record,) = read_folder(tmp_path).records
    assert (record.width, record.height, record.traits) == (16, 8, frozenset())
