"""Every common way to write captions down is read, in one order of precedence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
from PIL import Image
from training.toys import nearest_crop

from pack.training.dataset.folder.read import FolderOptions, folder_fingerprint, read_folder
from pack.training.dataset.folder.scan import Subfolders
from pack.training.dataset.merge import describe
from pack.training.dataset.pictures.buckets import latent_mask
from pack.training.dataset.pictures.decode import open_mask
from pack.training.dataset.records import Transparency


def picture(path: Path, size: tuple[int, int] = (16, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 80).convert("RGB").save(path)
    return path


def captions(folder: Path, **options: object) -> dict[str, str]:
    dataset = read_folder(folder, options=FolderOptions(**options))
    return {record.name: record.caption for record in dataset.records}


def rows(*pairs: tuple[str, str], key: str = "file_name", text: str = "text") -> str:
    return "\n".join(json.dumps({key: name, text: value}) for name, value in pairs)


FORMS = {
    "a.txt": "said",
    "a.caption": "said",
    "metadata.jsonl": rows(("a.png", "said")),
    "captions.jsonl": rows(("sub/a.png", "said"), key="image", text="prompt"),
    "metadata.csv": 'file_name,text\na.png,said\n"b,c.png","x, y"\n',
    "caption.csv": "caption,image_file\nsaid,a.png\n",
    "meta.json": json.dumps({"a": {"caption": "said", "train_resolution": [64, 64]}}),
    "meta_full.json": json.dumps({"C:\\\\data\\\\a.png": {"caption": "said"}}),
    "meta_lat.json": json.dumps({"/data/A.PNG": {"caption": "said"}}),
}


@pytest.mark.parametrize("file", FORMS)
def test_a_caption_is_found_in(tmp_path: Path, file: str):
    picture(tmp_path / "a.png")
    (tmp_path / file).write_text(FORMS[file], encoding="utf-8")
    assert captions(tmp_path) == {"a.png": "said"}
    (record,) = read_folder(tmp_path).records
    assert record.caption_source == (Path(file).suffix if file[0] == "a" else file)


def test_tags_of_kohya_follow_the_caption(tmp_path: Path):
    picture(tmp_path / "a.png")
    (tmp_path / "meta.json").write_text(json.dumps({"a": {"caption": "a cat", "tags": "red, hat"}}))
    assert captions(tmp_path) == {"a.png": "a cat, red, hat"}


def test_the_first_of_extension_txt_caption_jsonl_csv_json_wins_and_differences_are_told(
    tmp_path: Path,
):
    picture(tmp_path / "a.png")
    order = ["a.note", "a.txt", "a.caption", "metadata.jsonl", "metadata.csv", "meta.json"]
    forms = {**FORMS, "a.note": "said"}
    for file in order:
        (tmp_path / file).write_text(forms[file].replace("said", f"by {file}"), encoding="utf-8")
    for file in order:
        (record,) = read_folder(tmp_path, caption_extension=".note").records
        assert record.caption == f"by {file}"
        (tmp_path / file).unlink()
    for file in order[1:3]:
        (tmp_path / file).write_text(file)
    (note,) = read_folder(tmp_path).notes
    assert note == "a.png has different captions in .txt and .caption: .txt is used."


def test_other_kinds_can_be_left_alone(tmp_path: Path):
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(FORMS["metadata.jsonl"])
    assert captions(tmp_path, every_kind=False) == {"a.png": ""}


def test_a_bad_row_is_a_note_and_the_others_count(tmp_path: Path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    text = f"{FORMS['metadata.jsonl']}\nnot json\n[1]\n{rows(('b.png', 'two'))}"
    (tmp_path / "metadata.jsonl").write_text(text)
    (tmp_path / "broken.json").write_text("{")
    assert captions(tmp_path) == {"a.png": "said", "b.png": "two"}
    notes = " ".join(read_folder(tmp_path).notes)
    assert "Line 2 of metadata.jsonl" in notes and "Line 3 of metadata.jsonl" in notes
    assert "broken.json cannot be read as captions" in notes


def test_two_pictures_that_share_a_caption_are_noted(tmp_path: Path):
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("both")
    assert captions(tmp_path) == {"a.jpg": "both", "a.png": "both"}
    assert read_folder(tmp_path).notes == ("a.jpg and a.png share the caption a.txt.",)


def test_utf16_and_old_windows_text_are_read(tmp_path: Path):
    for name, data in {
        "a": "zwölf".encode("utf-16"),
        "b": "zwölf – “ja”".encode("cp1252"),
        "c": "\ufeffzwölf\r\nzwei\r\n".encode(),
    }.items():
        picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes(data)
    assert captions(tmp_path) == {
        "a.png": "zwölf",
        "b.png": "zwölf – “ja”",
        "c.png": "zwölf\nzwei",
    }


def test_n_concept_folders_give_repeats_and_words(tmp_path: Path):
    picture(tmp_path / "10_TOK dog" / "a.png")
    picture(tmp_path / "10_TOK dog" / "b.png")
    (tmp_path / "10_TOK dog" / "b.txt").write_text("TOK runs")
    picture(tmp_path / "2_cat" / "a.png")
    picture(tmp_path / "other" / "x.png")
    dataset = read_folder(tmp_path, repeats=3)
    found = [(r.name, r.repeats, r.caption, r.concept) for r in dataset.records]
    assert found == [
        ("2_cat/a.png", 6, "cat", "cat"),
        ("10_TOK dog/a.png", 30, "TOK dog", "TOK dog"),
        ("10_TOK dog/b.png", 30, "TOK runs", "TOK dog"),
    ]


def test_subfolders_are_read_as_asked_for(tmp_path: Path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "deep" / "er" / "b.png")
    picture(tmp_path / "3_x" / "c.png")
    picture(tmp_path / ".thumbs" / "d.png")
    picture(tmp_path / "_controls" / "e.png")
    (tmp_path / "deep" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert set(captions(tmp_path, subfolders=Subfolders.NONE)) == {"a.png"}
    every = set(captions(tmp_path, subfolders=Subfolders.ALL))
    assert every == {"a.png", "deep/er/b.png", "3_x/c.png"}


@pytest.mark.parametrize(
    "mask",
    ["a-masklabel.png", "a_mask.png", "a-mask.jpg", "a.mask.png", "masks/a.png", "mask/A.PNG"],
)
def test_a_mask_belongs_to_its_picture_and_is_no_picture_itself(tmp_path: Path, mask: str):
    picture(tmp_path / "a.png")
    path = tmp_path / mask
    path.parent.mkdir(exist_ok=True)
    Image.new("L", (8, 8), 255).save(path)
    (record,) = read_folder(tmp_path).records
    assert record.mask == path
    assert open_mask(record).size == (16, 16)
    (unmasked,) = [
        r
        for r in read_folder(tmp_path, options=FolderOptions(masks=False)).records
        if r.name == "a.png"
    ]
    assert unmasked.mask is None


def test_a_mask_of_16_bits_keeps_its_grays(tmp_path: Path):
    picture(tmp_path / "a.png", (4, 2))
    grays = numpy.array([[0, 1000, 32768, 65535]], dtype=numpy.uint16).repeat(2, 0)
    Image.fromarray(grays).save(tmp_path / "a.mask.png")
    (record,) = read_folder(tmp_path).records
    assert list(open_mask(record).tobytes()[:4]) == [0, 4, 128, 255]


def test_pairs_of_cog_are_read(tmp_path: Path):
    picture(tmp_path / "0.src.jpg")
    Image.new("L", (16, 16), 255).save(tmp_path / "0.mask.png")
    (tmp_path / "caption.csv").write_text("caption,image_file\na TOK,0.src.jpg\n")
    (record,) = read_folder(tmp_path).records
    assert (record.caption, record.mask) == ("a TOK", tmp_path / "0.mask.png")


def test_a_mask_without_a_picture_is_noted(tmp_path: Path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "masks" / "b.png")
    assert read_folder(tmp_path).notes == ("The mask b.png belongs to no image.",)


def test_transparency_becomes_a_mask(tmp_path: Path):
    image = Image.new("RGBA", (16, 16), (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 8, 16))
    image.save(tmp_path / "a.png")
    options = FolderOptions(transparency=Transparency.MASK)
    (record,) = read_folder(tmp_path, options=options).records
    mask = open_mask(record)
    assert (mask.getpixel((2, 2)), mask.getpixel((12, 2))) == (255, 0)
    weights = latent_mask(record, nearest_crop(16, 16, [(16, 16)]), (2, 2), 0.1)
    assert weights.flatten().tolist() == pytest.approx([1, 0.1, 1, 0.1])
    assert open_mask(read_folder(tmp_path).records[0]) is None


def test_the_fingerprint_sees_masks_tables_and_folders(tmp_path: Path):
    picture(tmp_path / "a.png")
    seen = [folder_fingerprint(tmp_path, ".txt")]
    for name in ("a_mask.png", "metadata.jsonl", "masks/c.png", "2_x/b.png", "2_x/b.caption"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
        seen.append(folder_fingerprint(tmp_path, ".txt"))
    assert len(set(seen)) == len(seen)


def test_the_report_counts_sources_traits_and_what_is_left_out(tmp_path: Path):
    image = Image.new("RGB", (16, 8))
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGBA", (8, 8)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"no")
    (tmp_path / "a.txt").write_text("x")
    text = describe(read_folder(tmp_path))
    for line in (
        f"{tmp_path.name}: 2 images, 2 an epoch",
        "captions: 1 (.txt 1)",
        "1 rotated by their EXIF tag, which ComfyUI's own loader and kohya ignore",
        "1 with transparency",
        "c.png cannot be read as an image (unknown or damaged format)",
    ):
        assert line in text
