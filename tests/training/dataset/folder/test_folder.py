"""A folder is read in natural order with its captions; a bad file is a sentence, not a stop."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image, features
from training.toys import nearest_crop

from pack.training.dataset.folder.read import folder_fingerprint, read_folder
from pack.training.dataset.pictures.buckets import load_pixels

NEEDS_AVIF = pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
AVIF = pytest.param("avif", marks=NEEDS_AVIF)


def picture(path: Path, size: tuple[int, int] = (20, 10)) -> Path:
    Image.effect_noise(size, 80).convert("RGB").save(path)
    return path


def names(folder: Path) -> list[str]:
    return [record.path.name for record in read_folder(folder).records]


def captions(folder: Path, extension: str = ".txt") -> dict[str, str]:
    dataset = read_folder(folder, caption_extension=extension)
    return {record.path.name: record.caption for record in dataset.records}


def test_a_folder_becomes_records(tmp_path: Path):
    folder = tmp_path / "cats"
    folder.mkdir()
    picture(folder / "a.png", (20, 10))
    picture(folder / "b.jpg", (30, 40))
    (folder / "a.txt").write_text("a TOK")
    dataset = read_folder(folder, repeats=3)
    assert dataset.name == "cats" and dataset.skipped == ()
    found = [(r.path, r.caption, r.width, r.height, r.repeats) for r in dataset.records]
    assert found == [(folder / "a.png", "a TOK", 20, 10, 3), (folder / "b.jpg", "", 30, 40, 3)]


@pytest.mark.parametrize(
    "suffix",
    ["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", AVIF, "jp2", "j2k", "PNG", "Jpg"],
)
def test_every_common_format_is_read(tmp_path: Path, suffix: str):
    picture(tmp_path / f"x.{suffix}")
    (record,) = read_folder(tmp_path).records
    assert (record.width, record.height) == (20, 10)
    pixels = load_pixels(record, nearest_crop(20, 10, [(16, 8)]))
    assert pixels.shape == (8, 16, 3)


def test_pictures_come_in_natural_order(tmp_path: Path):
    expected = ["1.png", "2.png", "10.png", "cat.png", "cat 2.png", "Cat 10.png", "cat_2_9.png"]
    expected += ["cat_2_10.png", "dog.png", "É.png"]
    for name in sorted(expected):
        picture(tmp_path / name)
    assert names(tmp_path) == expected


def test_hidden_files_folders_and_other_files_are_not_pictures(tmp_path: Path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "._a.png")
    picture(tmp_path / ".hidden.png")
    (tmp_path / "notes.md").write_text("hello")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "deeper").mkdir()
    picture(tmp_path / "deeper" / "b.png")
    dataset = read_folder(tmp_path)
    assert [record.path.name for record in dataset.records] == ["a.png"]
    assert dataset.skipped == ()


def test_a_picture_may_be_a_link_out_of_the_folder(tmp_path: Path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "link.png").symlink_to(picture(tmp_path / "elsewhere.png"))
    assert names(folder) == ["link.png"]


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A folder of somebody's own files, out of the dataset."""
    folder = tmp_path / "private"
    folder.mkdir()
    for name in ("a.png", "mask.png"):
        picture(folder / name)
    for name in ("key", "a.txt", "a.caption"):
        (folder / name).write_text("a secret")
    (folder / "rows").write_text('{"file_name": "a.png", "text": "a secret"}\n')
    return folder


def linked_set(tmp_path: Path, **links: Path) -> Path:
    """A dataset of one picture with links; `__` in a name is a dot."""
    folder = tmp_path / "set"
    folder.mkdir()
    picture(folder / "a.png")
    for name, target in links.items():
        (folder / name.replace("__", ".")).symlink_to(target)
    return folder


ODD = "These links lead out of the dataset or to no file and are not read: {}. Copy the files"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("a.txt", "key"),
        ("a.caption", "key"),
        ("metadata.jsonl", "rows"),
        ("meta.json", "key"),
        ("a-masklabel.png", "mask.png"),
        ("a_mask.png", "mask.png"),
    ],
)
def test_captions_tables_and_masks_by_links_out_of_the_folder_are_not_read(
    tmp_path: Path, private: Path, name: str, target: str
):
    folder = linked_set(tmp_path)
    (folder / name).symlink_to(private / target)
    dataset = read_folder(folder)
    (record,) = dataset.records
    assert (record.name, record.caption, record.mask) == ("a.png", "", None)
    assert dataset.notes[0].startswith(ODD.format(name))


def test_a_linked_folder_out_of_the_dataset_gives_pictures_and_nothing_else(
    tmp_path: Path, private: Path
):
    folder = linked_set(tmp_path)
    (folder / "10_dog").symlink_to(private, target_is_directory=True)
    (folder / "masks").symlink_to(private, target_is_directory=True)
    dataset = read_folder(folder)
    assert [(r.name, r.caption, r.mask) for r in dataset.records] == [
        ("a.png", "", None),
        ("10_dog/a.png", "dog", None),
        ("10_dog/mask.png", "dog", None),
    ]
    assert "masks/a.png" in dataset.notes[0] and "10_dog/a.caption" in dataset.notes[0]


def test_links_inside_the_dataset_are_followed_and_so_is_a_link_to_it(tmp_path: Path):
    folder = linked_set(tmp_path)
    (folder / "texts").mkdir()
    (folder / "texts" / "one").write_text("right")
    picture(folder / "texts" / "m.png")
    (folder / "a.txt").symlink_to(folder / "texts" / "one")
    (folder / "a_mask.png").symlink_to(Path("texts") / "m.png")
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    for place in (folder, tmp_path / "link"):
        dataset = read_folder(place)
        (record,) = dataset.records
        assert record.caption == "right" and record.mask == place / "a_mask.png"
        assert not any("lead out" in note for note in dataset.notes)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["b.png", "a.txt", "metadata.csv", "a_mask.png"])
def test_pipes_and_devices_are_never_opened(tmp_path: Path, name: str):
    folder = linked_set(tmp_path)
    os.mkfifo(folder / name)
    assert read_folder(folder).notes[0].startswith(ODD.format(name))
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    assert read_folder(folder).notes[0].startswith(ODD.format(name))
    assert folder_fingerprint(folder, ".txt") == folder_fingerprint(folder, ".txt")


def test_the_fingerprint_sees_a_change_of_a_linked_picture(tmp_path: Path, private: Path):
    folder = linked_set(tmp_path, b__png=private / "a.png")
    before = folder_fingerprint(folder, ".txt")
    os.utime(private / "a.png", ns=(1, 1))
    assert names(folder) == ["a.png", "b.png"] and folder_fingerprint(folder, ".txt") != before


def test_captions_are_raw_text_without_the_space_around_it(tmp_path: Path):
    picture(tmp_path / "a.png")
    text = "\ufeff\n  (red:1.5) \\(hat\\) {a|b} [x], embedding:y\r\nsecond — línea  \n\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    expected = "(red:1.5) \\(hat\\) {a|b} [x], embedding:y\nsecond — línea"
    assert captions(tmp_path) == {"a.png": expected}


def test_only_the_last_suffix_is_replaced(tmp_path: Path):
    picture(tmp_path / "x.png.v2.png")
    (tmp_path / "x.png.v2.txt").write_text("right")
    (tmp_path / "x.txt").write_text("wrong")
    assert captions(tmp_path) == {"x.png.v2.png": "right"}


@pytest.mark.parametrize("extension", [".caption", "caption", ".CAPTION"])
def test_the_extension_of_captions_can_be_chosen(tmp_path: Path, extension: str):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("wrong")
    (tmp_path / "a.caption").write_text("right")
    assert captions(tmp_path, extension) == {"a.png": "right"}


@pytest.mark.parametrize("extension", ["", ".", " ", "../x", "a/b", ".png"])
def test_an_impossible_caption_extension_is_refused(tmp_path: Path, extension: str):
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match="caption_extension"):
        read_folder(tmp_path, caption_extension=extension)


def test_names_match_across_letter_case_and_unicode_forms(tmp_path: Path):
    composed, split = (unicodedata.normalize(form, "Ünï 猫") for form in ("NFC", "NFD"))
    picture(tmp_path / f"{split}.png")
    (tmp_path / f"{composed}.TXT").write_text("right")
    assert captions(tmp_path) == {f"{split}.png": "right"}


def test_an_exact_name_wins_over_one_of_another_case(tmp_path: Path):
    picture(tmp_path / "Cat.png")
    picture(tmp_path / "cat.png")
    (tmp_path / "Cat.txt").write_text("large")
    (tmp_path / "cat.txt").write_text("small")
    if len(list(tmp_path.iterdir())) < 4:
        pytest.skip("the file system does not tell letter case apart")
    assert captions(tmp_path) == {"Cat.png": "large", "cat.png": "small"}


def test_a_caption_that_is_not_utf8_is_read_as_windows_text_and_noted(tmp_path: Path):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("un café".encode("latin-1"))
    dataset = read_folder(tmp_path)
    assert captions(tmp_path) == {"a.png": "un café"}
    note = "a.txt is not UTF-8 text and was read as Windows-1252: save it as UTF-8."
    assert dataset.notes == (note,) and dataset.skipped == ()


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def damage_header(data: bytes) -> bytes:
    return b"\0" * 8 + data[8:]


def damage_checksum(data: bytes) -> bytes:
    place = data.index(b"IDAT") + 10
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("name", "damage"),
    [(f"bad.{kind}", damage_header) for kind in ("png", "jpg", "webp", "bmp", "gif", "tif")]
    + [(f"bad.{kind}", cut) for kind in ("png", "jpg", "webp")]
    + [("bad.png", damage_checksum), ("bad.png", lambda data: b""), ("bad.jpg", lambda data: b"x")],
)
def test_a_damaged_picture_is_left_out_with_a_sentence(tmp_path: Path, name: str, damage):
    picture(tmp_path / "good.png")
    bad = picture(tmp_path / name, (100, 80))
    bad.write_bytes(damage(bad.read_bytes()))
    dataset = read_folder(tmp_path)
    assert [record.path.name for record in dataset.records] == ["good.png"]
    (sentence,) = dataset.skipped
    assert sentence.startswith(f"{name} cannot be read as an image (")
    assert sentence.endswith("): save it again as PNG or JPEG, or remove it.")
    assert str(tmp_path) not in sentence


@pytest.mark.parametrize("name", ["bad.bmp", "bad.gif", "bad.tif"])
def test_missing_pixels_that_only_decoding_shows_are_a_sentence_too(tmp_path: Path, name: str):
    bad = picture(tmp_path / name, (100, 80))
    bad.write_bytes(cut(bad.read_bytes()))
    (record,) = read_folder(tmp_path).records
    with pytest.raises(ValueError, match=rf"{name} cannot be read as an image \(.*truncated"):
        load_pixels(record, nearest_crop(100, 80, [(64, 64)]))


def test_a_jpeg_without_its_end_marker_is_good_when_no_pixel_is_missing(tmp_path: Path):
    whole = picture(tmp_path / "a.jpg", (64, 64)).read_bytes()
    assert whole.endswith(b"\xff\xd9")
    (tmp_path / "a.jpg").write_bytes(whole[:-2] + bytes(5000))
    (record,) = read_folder(tmp_path).records
    assert load_pixels(record, nearest_crop(64, 64, [(64, 64)])).shape == (64, 64, 3)


def test_a_broken_link_is_a_sentence(tmp_path: Path):
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    dataset = read_folder(tmp_path)
    assert [record.path.name for record in dataset.records] == ["a.png"]
    assert dataset.skipped[0].startswith("b.png cannot be read as an image (No such file")
    assert folder_fingerprint(tmp_path, ".txt") == folder_fingerprint(tmp_path, ".txt")


def test_a_photo_in_a_format_without_decoder_is_not_passed_over_in_silence(tmp_path: Path):
    picture(tmp_path / "a.png")
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    assert read_folder(tmp_path).skipped[0].startswith("IMG_1.HEIC cannot be read as an image")


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".pjpeg", ".apng", ".dib", ".jif"])
def test_other_names_of_a_format_are_read(tmp_path: Path, suffix: str):
    kinds = {".apng": "PNG", ".dib": "DIB"}
    Image.new("RGB", (8, 8)).save(tmp_path / f"a{suffix}", format=kinds.get(suffix, "JPEG"))
    (tmp_path / "a.txt").write_text("x")
    assert [r.caption for r in read_folder(tmp_path).records] == ["x"]


def test_kinds_of_images_that_are_not_read_are_named(tmp_path: Path):
    picture(tmp_path / "a.png")
    for name in ("layers.PSD", "clip.mp4", "raw.nef", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    (note,) = read_folder(tmp_path).notes
    assert note.startswith("Files of these kinds are not read: clip.mp4, layers.PSD, raw.nef.")


def test_a_folder_without_a_picture_is_one_sentence(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="There is no image in .*put some there") as error:
        read_folder(tmp_path)
    assert tmp_path.name in str(error.value) and str(tmp_path.parent) not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_readable_picture_says_why(tmp_path: Path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"None of the 3 images .* can be used: 0\.png cannot"):
        read_folder(tmp_path)


def test_a_missing_folder_is_a_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(FileNotFoundError, match="does not exist: choose another"):
            read_folder(folder)
        with pytest.raises(FileNotFoundError, match="does not exist"):
            folder_fingerprint(folder, ".txt")


def test_the_fingerprint_sees_every_edit_and_nothing_else(tmp_path: Path):
    path = picture(tmp_path / "a.png")
    seen = [folder_fingerprint(tmp_path, ".txt")]

    def edit() -> str:
        seen.append(folder_fingerprint(tmp_path, ".txt"))
        return seen[-1]

    (tmp_path / "unrelated.md").write_text("x")
    assert edit() == seen[0]
    (tmp_path / "a.txt").write_text("one")
    edit()
    os.utime(tmp_path / "a.txt", ns=(1, 1))
    edit()
    (tmp_path / "a.txt").write_text("other")
    os.utime(tmp_path / "a.txt", ns=(1, 1))
    edit()
    os.utime(path, ns=(1, 1))
    edit()
    path.rename(tmp_path / "b.png")
    edit()
    picture(tmp_path / "c.png")
    edit()
    assert len(set(seen)) == len(seen) - 1


def test_the_fingerprint_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("x")

    def refuse(*args: object, **kwargs: object):
        raise AssertionError("opened a file")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)
    assert len(folder_fingerprint(tmp_path, ".txt")) == 64
