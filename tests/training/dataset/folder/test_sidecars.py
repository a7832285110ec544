"""Every common way to write captions down is read, in one order of precedence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
from PIL import Image
from training.toys import nearest_crop

from pack.training.dataset.folder import sidecars
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


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv", "meta.json"])
def test_a_table_beside_folders_has_the_captions_of_the_images_in_them(tmp_path: Path, table: str):
    names = ["cat/1.png", "dog/1.png", "2_bird/1.png", "2.png"]
    for name in names:
        picture(tmp_path / name)
    texts = {name: f"this is {name}" for name in names}
    (tmp_path / table).write_text(
        {
            "metadata.jsonl": rows(*texts.items()),
            "metadata.csv": "\n".join(["file_name,text", *(f"{n},{t}" for n, t in texts.items())]),
            "meta.json": json.dumps({n[:-4]: {"caption": t} for n, t in texts.items()}),
        }[table]
    )
    assert captions(tmp_path, subfolders=Subfolders.ALL) == texts
    read = captions(tmp_path, subfolders=Subfolders.CONCEPTS)
    assert read == {name: texts[name] for name in ("2.png", "2_bird/1.png")}


def test_the_nearer_of_two_tables_is_used_and_the_difference_is_noted(tmp_path: Path):
    picture(tmp_path / "cat" / "1.png")
    (tmp_path / "metadata.jsonl").write_text(rows(("cat/1.png", "far")))
    (tmp_path / "cat" / "metadata.jsonl").write_text(rows(("1.png", "near")))
    dataset = read_folder(tmp_path, options=FolderOptions(subfolders=Subfolders.ALL))
    assert [r.caption for r in dataset.records] == ["near"]
    assert "different captions" in dataset.notes[0]


def test_rows_of_no_image_and_of_several_are_noted_once_a_table(tmp_path: Path):
    for name in ("cat/1.png", "dog/1.png"):
        picture(tmp_path / name)
    (tmp_path / "metadata.jsonl").write_text(
        rows(*((f"{i}.png", "gone") for i in range(5, 10)), ("1.png", "which?"))
    )
    dataset = read_folder(tmp_path, options=FolderOptions(subfolders=Subfolders.ALL))
    assert [r.caption for r in dataset.records] == ["", ""]
    assert dataset.notes == (
        "metadata.jsonl has captions of files that are no images here: 5.png, 6.png, 7.png and 2 "
        "more.",
        "metadata.jsonl has captions that could be of several images and are not used: write their "
        "folders too (1.png).",
    )


FOREIGN = {
    "sales.csv": "id;price\n1;9,99\n",
    "long.csv": "id,data\n1," + "x" * 131_073 + "\n",
    "long first.csv": "x" * 131_073 + ",data\n1,2\n",
    "workflow.json": json.dumps({"3": {"inputs": {"seed": 1}, "class_type": "KSampler"}}),
    "deep.json": "[" * 100_000,
    "list.json": "[1, 2]",
    "null.csv": "a\0b,c\n1,2\n",
    "empty.csv": "",
}


@pytest.mark.parametrize("file", FOREIGN)
def test_a_foreign_table_ends_no_load_and_a_csv_is_said_to_be_none(tmp_path: Path, file: str):
    picture(tmp_path / "a.png")
    (tmp_path / file).write_text(FOREIGN[file])
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,said\n")
    dataset = read_folder(tmp_path)
    assert [r.caption for r in dataset.records] == ["said"]
    noted = [note for note in dataset.notes if file in note]
    assert len(noted) == (file not in ("workflow.json", "list.json", "empty.csv"))


@pytest.mark.parametrize("file", ["a.txt", "metadata.jsonl", "metadata.csv", "meta.json"])
def test_a_file_that_is_longer_than_captions_are_is_named_and_not_read(
    tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sidecars, "MOST_OF_A_TABLE", 2 * 1024**2)
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    with open(tmp_path / file, "wb") as long:
        long.truncate(50 * 1024**3)  # a hole in the file: it takes no room on the disk
    dataset = read_folder(tmp_path)
    said = [text for text in (*dataset.notes, *dataset.skipped) if file in text]
    assert len(said) == 1 and "MB, which is more than captions have" in said[0]
    assert "b.png" in [record.name for record in dataset.records]


def test_a_table_in_another_encoding_is_said_to_be_a_guess_and_many_bad_lines_are_one_note(
    tmp_path: Path,
):
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_bytes("file_name,text\na.png,caf\u00e9\n".encode("cp1252"))
    (tmp_path / "bad.jsonl").write_text("[1]\n" * 40)
    dataset = read_folder(tmp_path)
    assert [r.caption for r in dataset.records] == ["caf\u00e9"]
    assert sorted(dataset.notes) == [
        "Line 1 of bad.jsonl is not a caption of an image: correct it. The same is true of 39 "
        "others: Line 2, Line 3, Line 4 and 36 more.",
        "metadata.csv is not UTF-8 text and was read as Windows-1252: save it as UTF-8.",
    ]


def test_halves_of_characters_in_a_table_are_joined_or_replaced(tmp_path: Path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    lines = [
        '{"file_name": "a.png", "text": "a \\ud83d\\ude00 face"}',
        '{"file_name": "b.png", "text": "a \\ud83d face"}',
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert captions(tmp_path) == {"a.png": "a \U0001f600 face", "b.png": "a \ufffd face"}


def test_many_oddities_of_a_kind_are_one_note(tmp_path: Path):
    for number in range(40):
        picture(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_bytes("it\u2019s a cat".encode("cp1252"))
        (tmp_path / f"broken {number}.png").write_bytes(b"no")
    dataset = read_folder(tmp_path)
    assert dataset.notes == (
        "0.txt is not UTF-8 text and was read as Windows-1252: save it as UTF-8. The same is true "
        "of 39 others: 1.txt, 2.txt, 3.txt and 36 more.",
    )
    assert len(dataset.skipped) == 1 and "39 others" in dataset.skipped[0]


def test_two_images_that_share_a_mask_are_noted(tmp_path: Path):
    for name in ("a.jpg", "a.png", "masks/a.png"):
        picture(tmp_path / name)
    assert read_folder(tmp_path).notes == ("a.jpg and a.png share the mask a.png.",)


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
        "d": "a TOK on grass".encode("utf-16-le"),
        "e": "a TOK on grass".encode("utf-16-be"),
    }.items():
        picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes(data)
    assert captions(tmp_path) == {
        "a.png": "zwölf",
        "b.png": "zwölf – “ja”",
        "c.png": "zwölf\nzwei",
        "d.png": "a TOK on grass",
        "e.png": "a TOK on grass",
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


def flat(path: Path, mode: str, color: object, square: object) -> None:
    """A mask of one color with a square in the upper left quarter."""
    image = Image.new(mode, (16, 16), color)
    image.paste(square, (0, 0, 8, 8))
    image.save(path)


MASKS = {
    "gray with alpha": ("LA", (255, 0), (255, 255), (255, 0)),
    "black in alpha": ("RGBA", (0, 0, 0, 0), (0, 0, 0, 255), (255, 0)),
    "gray and opaque": ("LA", (0, 255), (255, 255), (255, 0)),
    "black and opaque": ("RGBA", (0, 0, 0, 255), (0, 0, 0, 255), (0, 0)),
    "white and opaque": ("LA", (255, 255), (255, 255), (255, 255)),
    "nothing drawn": ("LA", (255, 0), (255, 0), (0, 0)),
    "gray": ("L", 0, 255, (255, 0)),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_is_read_from_its_gray_or_from_where_it_is_drawn(tmp_path: Path, kind: str):
    mode, color, square, expected = MASKS[kind]
    picture(tmp_path / "a.png", (16, 16))
    flat(tmp_path / "a_mask.png", mode, color, square)
    (record,) = read_folder(tmp_path).records
    mask = open_mask(record)
    assert (mask.getpixel((2, 2)), mask.getpixel((12, 12))) == expected


def test_a_mask_of_a_palette_with_a_clear_color_is_read_from_its_opacity(tmp_path: Path):
    picture(tmp_path / "a.png", (16, 16))
    image = Image.new("P", (16, 16), 0)
    image.putpalette([255, 255, 255] * 2)
    image.paste(1, (0, 0, 8, 8))
    image.save(tmp_path / "a_mask.png", transparency=0)
    (record,) = read_folder(tmp_path).records
    assert open_mask(record).getpixel((2, 2)) == 255 and open_mask(record).getpixel((12, 12)) == 0


@pytest.mark.parametrize("caption", ["a_mask.txt", "a_mask.caption", "metadata.jsonl"])
def test_an_image_with_a_caption_of_its_own_is_no_mask(tmp_path: Path, caption: str):
    for name in ("a.png", "a_mask.png", "masks/a.png"):
        picture(tmp_path / name)
    text = '{"file_name": "a_mask.png", "text": "a carnival mask"}'
    (tmp_path / caption).write_text(text if "json" in caption else "a carnival mask")
    dataset = read_folder(tmp_path)
    assert [(r.name, r.caption) for r in dataset.records] == [
        ("a.png", ""),
        ("a_mask.png", "a carnival mask"),
    ]
    assert dataset.records[0].mask == tmp_path / "masks" / "a.png"
    assert [note for note in dataset.notes if "a_mask.png has a caption" in note]


def test_a_mask_of_onetrainer_stays_one_with_a_note(tmp_path: Path):
    for name in ("a.png", "a-masklabel.png"):
        picture(tmp_path / name)
    (tmp_path / "a-masklabel.txt").write_text("by a tagger that took every image")
    dataset = read_folder(tmp_path)
    assert [r.mask for r in dataset.records] == [tmp_path / "a-masklabel.png"]
    assert dataset.notes == ("a-masklabel.png is a mask, and its caption is not used.",)


def test_folders_that_are_not_read_are_named_with_the_setting_that_reads_them(tmp_path: Path):
    picture(tmp_path / "dog" / "deep" / "a.png")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    with pytest.raises(ValueError, match='subfolders dog. To use them, set subfolders to "all"'):
        read_folder(tmp_path)
    picture(tmp_path / "b.png")
    picture(tmp_path / "10_cat" / "deep" / "c.png")
    picture(tmp_path / "10_cat" / "c.png")
    dataset = read_folder(tmp_path)
    assert [r.name for r in dataset.records] == ["b.png", "10_cat/c.png"]
    assert dataset.notes == (
        "These subfolders have images that are not read: dog, 10_cat/deep. To use them, set "
        'subfolders to "all", or give them names such as 10_dog.',
    )
    none = read_folder(tmp_path, options=FolderOptions(subfolders=Subfolders.NONE))
    assert "not read: 10_cat, dog." in none.notes[0]
    every = read_folder(tmp_path, options=FolderOptions(subfolders=Subfolders.ALL))
    assert len(every.records) == 4 and every.notes == ()


JUNK = ["@eaDir", "#recycle", "@Recycle", "__MACOSX", ".thumbnails", "$RECYCLE.BIN", "#snapshot"]


@pytest.mark.parametrize("name", JUNK)
def test_thumbnails_and_trash_of_network_storage_are_left_out(tmp_path: Path, name: str):
    picture(tmp_path / "a.png")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    picture(tmp_path / name / "a.png" / "SYNOPHOTO_THUMB_M.jpg")
    picture(tmp_path / "deep" / name / "b.png")
    for subfolders in Subfolders:
        dataset = read_folder(tmp_path, options=FolderOptions(subfolders=subfolders))
        assert [r.name for r in dataset.records] == ["a.png"] and dataset.notes == ()


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
