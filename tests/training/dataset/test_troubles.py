"""A folder with forty kinds of trouble: each is named, and what is left can be trained on."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageCms, ImageDraw, ImageFilter

from factories import grain
from pack.training.dataset.checks.verdict import DatasetVerdict, examine, measured
from pack.training.dataset.facts import Store
from pack.training.dataset.folder.read import FolderOptions, read_folder
from pack.training.dataset.pictures.buckets import load_pixels
from pack.training.dataset.pictures.crops import plan_crops
from pack.training.dataset.records import Framing

SIZE = (160, 160)


def drawing(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    draw = random.Random(seed)
    picture = grain(size, draw)
    pen = ImageDraw.Draw(picture)
    for _ in range(25):
        x, y = draw.randrange(size[0]), draw.randrange(size[1])
        w, h = draw.randrange(6, max(size[0] // 2, 7)), draw.randrange(6, max(size[1] // 2, 7))
        pen.ellipse((x, y, x + w, y + h), fill=tuple(draw.randrange(256) for _ in range(3)))
    return picture


def saved(path: Path, seed: int, **options: object) -> Path:
    drawing(seed).save(path, **options)
    return path


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def with_orientation(folder: Path) -> None:
    picture = drawing(1, (160, 100))
    exif = picture.getexif()
    exif[274] = 6
    picture.save(folder / "turned.jpg", exif=exif)


def with_alpha(folder: Path, name: str, opacity: int) -> None:
    picture = drawing(2).convert("RGBA")
    picture.putalpha(opacity)
    picture.save(folder / name)


def with_profile(folder: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    saved(folder / "lab.png", 3, icc_profile=profile)


def captioned(folder: Path, name: str, data: bytes, seed: int) -> None:
    saved(folder / f"{name}.png", seed)
    (folder / f"{name}.txt").write_bytes(data)


def twin(folder: Path) -> None:
    saved(folder / "twin a.png", 20)
    (folder / "twin b.png").write_bytes((folder / "twin a.png").read_bytes())


def near(folder: Path) -> None:
    picture = drawing(21)
    picture.save(folder / "near a.png")
    picture.resize((120, 120)).save(folder / "near b.jpg", quality=70)


# What is done to the folder, and words of the report that name it.
TROUBLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty file": (lambda f: (f / "zero.png").write_bytes(b""), "zero.png cannot be read"),
    "text as png": (lambda f: (f / "text.png").write_text("hi"), "text.png cannot be read"),
    "cut png": (lambda f: cut(saved(f / "cut.png", 30)), "cut.png cannot be read"),
    "cut jpeg": (lambda f: cut(saved(f / "cut.jpg", 31)), "cut.jpg cannot be read"),
    "cut webp": (lambda f: cut(saved(f / "cut.webp", 32)), "cut.webp cannot be read"),
    "cut bmp": (lambda f: cut(saved(f / "cut.bmp", 33)), "cut.bmp cannot be read"),
    "cut gif": (lambda f: cut(saved(f / "cut.gif", 34)), "cut.gif cannot be read"),
    "cut tiff": (lambda f: cut(saved(f / "cut.tif", 35), 0.9), "cut.tif cannot be read"),
    "heic": (lambda f: (f / "p.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40)),
             "Pillow reads it only with pillow-heif"),
    "jxl": (lambda f: (f / "p.jxl").write_bytes(b"\xff\x0a" + bytes(40)),
            "Pillow reads it only with pillow-jxl-plugin"),
    "broken link": (lambda f: (f / "link.png").symlink_to(f / "none.png"), "link.png cannot be"),
    "float tiff": (lambda f: Image.new("F", SIZE).save(f / "float.tif"), "float.tif cannot be"),
    "exif": (with_orientation, "1 rotated by their EXIF tag"),
    "alpha": (lambda f: with_alpha(f, "veil.png", 200), "with transparency"),
    "mostly clear": (lambda f: with_alpha(f, "clear.png", 10), "mostly transparent: clear.png"),
    "animation": (lambda f: saved(f / "moves.gif", 5, save_all=True, append_images=[drawing(6)]),
                  "only the first frame is used: moves.gif"),
    "profile": (with_profile, "with a color profile"),
    "16 bits": (lambda f: Image.effect_noise(SIZE, 50).convert("I;16").save(f / "deep.png"),
                "with 16 bits"),
    "cmyk": (lambda f: drawing(7).convert("CMYK").save(f / "print.jpg"), "in CMYK"),
    "copy": (twin, "twin a.png = twin b.png: the same file"),
    "near copy": (near, "near a.png, near b.jpg: nearly the same image"),
    "small": (lambda f: drawing(8, (60, 60)).save(f / "small.png"), "much smaller than their"),
    "wide": (lambda f: drawing(9, (900, 130)).save(f / "wide.png"), "cropped by more than a"),
    "blurred": (lambda f: drawing(10, (300, 300)).filter(ImageFilter.GaussianBlur(9)).save(
        f / "soft.png"), "much less sharp than the others: soft.png"),
    "flat": (lambda f: Image.new("RGB", SIZE, "teal").save(f / "flat.png"), "of a single color"),
    "dark": (lambda f: drawing(11).point(lambda v: v // 40).save(f / "dark.png"), "very dark"),
    "bright": (lambda f: drawing(12).point(lambda v: 250 + v // 60).save(f / "bright.png"),
               "very bright"),
    "latin-1 caption": (lambda f: captioned(f, "latin", "TOK café".encode("latin-1"), 40),
                        "latin.txt is not UTF-8 text"),
    "no caption": (lambda f: captioned(f, "mute", b" \n", 41), "without a caption"),
    "no placeholder": (lambda f: captioned(f, "plain", b"a dog", 42),
                       "whose caption has no placeholder: plain.png"),
    "placeholder in a word": (lambda f: captioned(f, "tokyo", b"TOKYO at night", 43), "tokyo.png"),
    "refusal": (lambda f: captioned(f, "sorry", b"I'm sorry, I cannot describe TOK", 44),
                "a refusal or an error text: sorry.png"),
    "boilerplate": (lambda f: captioned(f, "opens", b"This image shows TOK", 45), "opens.png"),
    "long caption": (lambda f: captioned(f, "long", b"TOK " + b"word " * 120, 46),
                     "tokens: ComfyUI encodes it in pieces"),
    "same captions": (lambda f: [captioned(f, f"same {n}", b"TOK again", 47 + n) for n in (0, 1)],
                      "that share their caption with another"),
    "two captions": (lambda f: (captioned(f, "both", b"TOK one", 50),
                                (f / "both.caption").write_text("TOK two")),
                     "both.png has different captions in .txt and .caption"),
    "shared caption": (lambda f: (captioned(f, "share", b"TOK shared", 51),
                                  saved(f / "share.jpg", 52)), "share the caption share.txt"),
    "bad table row": (lambda f: (f / "metadata.jsonl").write_text("{oops\n"),
                      "Line 1 of metadata.jsonl"),
    "broken json": (lambda f: (f / "meta.json").write_text("{"), "meta.json cannot be read"),
    "stray mask": (lambda f: (saved(f / "masks" / "nobody.png", 53)),
                   "The mask nobody.png belongs to no image"),
    "black mask": (lambda f: (captioned(f, "hidden", b"TOK hidden", 54),
                              Image.new("L", SIZE).save(f / "hidden_mask.png")),
                   "a mask that is black all over: hidden.png"),
    "broken mask": (lambda f: (captioned(f, "torn", b"TOK torn", 55),
                               (f / "torn_mask.png").write_bytes(b"no mask")),
                    "with a mask that cannot be read: torn.png"),
    "split accents": (lambda f: captioned(f, unicodedata.normalize("NFD", "Ünï 猫"), b"TOK", 56),
                      "no_trouble"),
    "hidden file": (lambda f: saved(f / "._x.png", 57), "no_trouble"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("troubles")
    (path / "masks").mkdir()
    for number in range(60, 72):
        captioned(path, f"good {number}", f"TOK number {number} in a place".encode(), number)
    for make, _ in TROUBLES.values():
        make(path)
    return path


@pytest.fixture(scope="module")
def health(folder: Path) -> DatasetVerdict:
    options = FolderOptions(default_caption="")
    dataset = read_folder(folder, options=options)
    return examine(dataset, list(measured(dataset, Store())), Framing(resolution=128), ["TOK"])


def test_there_are_forty_kinds():
    assert len(TROUBLES) >= 40


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_trouble_is_named(health: DatasetVerdict, trouble: str):
    words = TROUBLES[trouble][1]
    assert words == "no_trouble" or words in health.report


def test_what_is_left_can_be_trained_on(folder: Path, health: DatasetVerdict):
    records = health.dataset.records
    crops = plan_crops(records, Framing(resolution=128))
    for record, (crop,) in zip(records, crops, strict=True):
        assert load_pixels(record, crop).shape == (crop.height, crop.width, 3)
    names = {unicodedata.normalize("NFC", record.name) for record in records}
    assert {"good 60.png", "Ünï 猫.png", "turned.jpg"} <= names
    assert not {name for name in names if "cut" in name or "mask" in name or name[0] == "."}
    assert json.dumps(health.report)
