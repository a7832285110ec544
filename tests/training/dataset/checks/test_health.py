"""A check names each trouble, leaves out only what cannot be decoded, and decodes nothing twice."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw, ImageFile, ImageFilter, ImageOps

from factories import grain
from pack.training.dataset.captions.refusals import is_unfinished
from pack.training.dataset.checks.findings import rough_tokens
from pack.training.dataset.checks.measure import (
    Measures,
    border_share,
    distance,
    measure,
    near_copies,
)
from pack.training.dataset.checks.variety import variety
from pack.training.dataset.checks.verdict import DatasetVerdict, Gate, examine, measured
from pack.training.dataset.facts import Store
from pack.training.dataset.folder.read import read_folder
from pack.training.dataset.merge import split_dataset
from pack.training.dataset.records import Box, Dataset, Framing, Record

FRAMING = Framing(resolution=64)


def drawing(seed: int, size: tuple[int, int] = (200, 200)) -> Image.Image:
    """Shapes on a rough ground of their own, so that any two are different."""
    draw = random.Random(seed)
    picture = Image.new("RGB", size, tuple(draw.randrange(60, 200) for _ in range(3)))
    picture = Image.blend(picture, grain(size, draw), 0.25)
    pen = ImageDraw.Draw(picture)
    for _ in range(30):
        x, y = draw.randrange(size[0]), draw.randrange(size[1])
        w, h = draw.randrange(8, size[0] // 2), draw.randrange(8, size[1] // 2)
        pen.ellipse((x, y, x + w, y + h), fill=tuple(draw.randrange(256) for _ in range(3)))
    return picture


def check(folder: Path, *placeholders: str, store: Store | None = None) -> DatasetVerdict:
    dataset = read_folder(folder)
    return examine(dataset, list(measured(dataset, store or Store())), FRAMING, placeholders)


def fill(folder: Path, count: int = 6, caption: str = "a TOK") -> None:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        drawing(number).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"{caption} {number}")


def flags(health: DatasetVerdict, name: str) -> tuple[str, ...]:
    return next(r.flags for r in health.dataset.records if r.name == name)


def test_a_good_set_is_ready(tmp_path: Path):
    fill(tmp_path)
    health = check(tmp_path, "TOK")
    assert health.gate is Gate.READY and health.findings == ()
    assert (
        health.report.startswith("ready\n")
        and health.dataset.records == read_folder(tmp_path).records
    )


def test_copies_and_near_copies_are_found_and_others_are_not(tmp_path: Path):
    fill(tmp_path, 12)
    base = Image.open(tmp_path / "3.png")
    (tmp_path / "x_same.png").write_bytes((tmp_path / "3.png").read_bytes())
    base.resize((400, 400)).save(tmp_path / "x_large.jpg", quality=80)
    base.filter(ImageFilter.GaussianBlur(1.5)).save(tmp_path / "x_soft.png")
    health = check(tmp_path)
    assert "copy" in flags(health, "x_same.png")
    assert {"near_copy"} <= set(flags(health, "x_soft.png")) & set(flags(health, "3.png"))
    assert flags(health, "x_large.jpg").count("near_copy") == 0  # the largest stays
    assert all(not flags(health, f"{n}.png") for n in (0, 1, 2, 4, 11))


def test_variety_is_the_mean_likeness_of_all_pairs_and_names_the_most_alike():
    torch.manual_seed(0)
    vectors = torch.randn(1500, 16)
    vectors[1300] = 2 * vectors[5] + 0.01
    found = variety(vectors, limit=0.99)
    rows = torch.nn.functional.normalize(vectors, dim=1)
    every = (rows @ rows.T)[tuple(torch.triu_indices(1500, 1500, 1))]
    assert found.mean == pytest.approx(float(every.mean()), abs=1e-5)
    assert (found.pairs[0].left, found.pairs[0].right) == (5, 1300)
    assert [pair.likeness for pair in found.pairs] == pytest.approx(every.topk(3).values.tolist())
    assert {5, 1300} <= set(found.close)
    pairs = (rows @ rows.T).triu(1) >= 0.99
    assert set(found.close) == {int(i) for pair in pairs.nonzero() for i in pair}


def test_pictures_of_one_moment_are_noted_and_copies_do_not_count(tmp_path: Path):
    fill(tmp_path)
    moment = drawing(50, (240, 240))
    for number, degrees in enumerate((0, 3)):
        moment.rotate(degrees, Image.Resampling.BICUBIC).crop((20, 20, 220, 220)).save(
            tmp_path / f"moment {number}.png"
        )
    health = check(tmp_path)
    flagged = {r.name for r in health.dataset.records if "alike" in r.flags}
    assert flagged == {"moment 0.png", "moment 1.png"}
    assert "most: moment 0.png and moment 1.png (0." in health.report
    moment.crop((20, 20, 220, 220)).save(tmp_path / "moment 1.png")
    again = check(tmp_path)
    assert not any("alike" in r.flags for r in again.dataset.records)


def test_features_of_a_vision_model_tell_what_light_and_dark_do_not(tmp_path: Path):
    fill(tmp_path, 6)
    (tmp_path / "0.png").write_bytes(b"no picture")
    drawing(0).save(tmp_path / "0.bmp")
    (tmp_path / "0.bmp").write_bytes((tmp_path / "0.bmp").read_bytes()[:5000])
    dataset = read_folder(tmp_path)
    features = list(torch.eye(6))
    features[4] = features[2] + 0.1 * features[4]
    health = examine(dataset, list(measured(dataset, Store())), FRAMING, features=features)
    assert dataset.records[2].name == "2.png" and len(health.dataset.records) == 5
    assert "by the vision model, 1 for the same: 0.10; most: 2.png and 4.png (1.00)" in (
        health.report.replace("0.99", "1.00")
    )


def test_flat_pictures_of_different_colors_are_no_copies(tmp_path: Path):
    for name in ("red", "green", "blue"):
        Image.new("RGB", (64, 64), name).save(tmp_path / f"{name}.png")
    dataset = read_folder(tmp_path)
    assert near_copies(list(measured(dataset, Store()))) == []
    Image.new("RGB", (80, 80), "red").save(tmp_path / "red 2.png")
    assert len(near_copies(list(measured(read_folder(tmp_path), Store())))) == 1


def test_the_distance_of_hashes_is_exact_in_blocks():
    draw = random.Random(0)
    words = [draw.getrandbits(256) for _ in range(1500)]
    words[1400] = words[7] ^ (2**20 - 1)
    words[1401] = words[8] ^ (2**21 - 1)
    many = [Measures(likeness=f"{w:064x}", contrast=0.3) for w in words]
    assert near_copies(many) == [[7, 1400]]
    assert distance("0f", "f0") == 8


TROUBLES = {
    "small": lambda folder: drawing(50, (20, 20)).save(folder / "x.png"),
    "smallish": lambda folder: drawing(50, (50, 50)).save(folder / "x.png"),
    "crop": lambda folder: drawing(50, (900, 100)).save(folder / "x.png"),
    "blur": lambda folder: drawing(50).filter(ImageFilter.GaussianBlur(9)).save(folder / "x.png"),
    "flat": lambda folder: Image.new("RGB", (99, 99), "teal").save(folder / "x.png"),
    "dark": lambda folder: drawing(50).point(lambda v: v // 30).save(folder / "x.png"),
    "bright": lambda folder: drawing(50).point(lambda v: 250 + v // 60).save(folder / "x.png"),
    "animated": lambda folder: drawing(50).save(
        folder / "x.gif", save_all=True, append_images=[drawing(51)]
    ),
}


@pytest.mark.parametrize("flag", TROUBLES)
def test_a_picture_is_flagged(tmp_path: Path, flag: str):
    fill(tmp_path)
    TROUBLES[flag](tmp_path)
    health = check(tmp_path)
    name = next(tmp_path.glob("x.*")).name
    assert flag in flags(health, name)
    assert all(flag not in r.flags for r in health.dataset.records if r.name != name)


def test_borders_transparency_and_watermarks_are_noted(tmp_path: Path):
    fill(tmp_path, 8)
    framed = Image.new("RGB", (200, 260), "black")
    framed.paste(drawing(50), (0, 30))
    framed.save(tmp_path / "bars.png")
    clear = drawing(51).convert("RGBA")
    clear.putalpha(20)
    clear.save(tmp_path / "clear.png")
    for number in range(60, 65):
        marked = drawing(number)
        ImageDraw.Draw(marked).rectangle((140, 170, 200, 200), fill="white")
        for x in range(145, 196, 9):
            ImageDraw.Draw(marked).rectangle((x, 176, x + 4, 194), fill="black")
        marked.save(tmp_path / f"marked {number}.png")
    health = check(tmp_path)
    assert "border" in flags(health, "bars.png")
    assert "transparent" in flags(health, "clear.png")
    assert all("watermark" in flags(health, f"marked {n}.png") for n in range(60, 65))
    assert all("watermark" not in flags(health, f"{n}.png") for n in range(8))


def test_captions_are_checked(tmp_path: Path):
    fill(tmp_path, 10)
    texts = {
        0: "",
        1: "a dog",
        2: "I'm sorry, I can't help with that TOK",
        3: "This image shows TOK",
        4: "TOK " + "word " * 90,
        5: "A TOK sits on a chair. Behind it stands a tall",
        6: "[Trigger] with TOK",
        7: "a {TOK} {red|blue} TOK",
        8: "a {red|blue} TOK",
        9: "word " * 90 + "TOK",
    }
    for number, text in texts.items():
        (tmp_path / f"{number}.txt").write_text(text)
    health = check(tmp_path, "TOK")
    found = {n: flags(health, f"{n}.png") for n in texts}
    assert found == {
        0: ("no_caption",),
        1: ("no_placeholder",),
        2: ("refusal",),
        3: ("boilerplate",),
        4: ("long_caption",),
        5: ("unfinished",),
        6: ("hole",),
        7: ("hole",),
        8: (),
        9: ("late_placeholder", "long_caption"),
    }
    assert health.gate is Gate.NOT_READY


def test_a_placeholder_in_no_caption_and_few_pictures_are_told(tmp_path: Path):
    fill(tmp_path, 3, "a TOK2")
    health = check(tmp_path, "TOK")
    assert health.gate is Gate.NOT_READY
    assert 'error: The placeholder "TOK" is in no caption' in health.report
    assert "Only 3 images" in health.report


def test_boxes_tell_crowds_and_far_subjects(tmp_path: Path):
    fill(tmp_path)
    dataset = read_folder(tmp_path)
    boxes = [(Box(0, 0, 99, 99),) * 2, (Box(0, 0, 9, 9),), (), *[(Box(0, 0, 150, 150),)] * 3]
    records = tuple(
        replace(record, boxes=box) for record, box in zip(dataset.records, boxes, strict=True)
    )
    dataset = replace(dataset, records=records)
    health = examine(dataset, list(measured(dataset, Store())), FRAMING)
    assert [r.flags for r in health.dataset.records] == [
        ("faces",),
        ("far",),
        ("no_face",),
        *[()] * 3,
    ]


def test_a_subject_that_the_crop_cuts_off_is_told(tmp_path: Path):
    fill(tmp_path)
    drawing(50, (400, 100)).save(tmp_path / "wide.png")
    dataset = read_folder(tmp_path)

    def cut(left: int) -> bool:
        boxed = dataset.with_records(
            lambda r: replace(r, boxes=(Box(left, 10, 80, 80),) if r.name == "wide.png" else None)
        )
        health = examine(boxed, list(measured(boxed, Store())), FRAMING)
        return "cut" in flags(health, "wide.png")

    # The crop keeps the square in the middle, from 150 to 250.
    assert [cut(left) for left in (0, 100, 120, 160, 200, 220)] == [1, 1, 0, 0, 0, 1]


def test_what_cannot_be_decoded_is_left_out_with_a_sentence(tmp_path: Path):
    fill(tmp_path)
    data = (tmp_path / "0.png").read_bytes()
    drawing(9).save(tmp_path / "cut.bmp")
    (tmp_path / "cut.bmp").write_bytes((tmp_path / "cut.bmp").read_bytes()[:5000])
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    health = check(tmp_path, "TOK")
    assert len(health.dataset.records) == 6 and health.gate is Gate.WARNINGS
    assert "warning: cut.bmp cannot be read as an image" in health.report
    assert "warning: cut.png cannot be read as an image" in health.report


def test_an_empty_set_is_not_ready():
    assert examine(Dataset(name="x", records=()), [], FRAMING).gate is Gate.NOT_READY


def test_a_second_check_decodes_no_picture_and_reads_no_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fill(tmp_path / "set")
    store = Store(tmp_path / "facts.sqlite")
    first = check(tmp_path / "set", store=store)
    store.close()
    decoded: list[str] = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(
        ImageFile.ImageFile,
        "load",
        lambda self: (decoded.append(Path(self.filename).name), load(self))[1],
    )
    assert check(tmp_path / "set", store=Store(tmp_path / "facts.sqlite")).report == first.report
    assert decoded == []
    drawing(77).save(tmp_path / "set" / "0.png")
    check(tmp_path / "set", store=Store(tmp_path / "facts.sqlite"))
    assert set(decoded) == {"0.png"}


def test_a_store_that_is_not_closed_keeps_no_other_waiting(tmp_path: Path):
    """As while a folder is captioned for an hour and the gallery makes its thumbnails."""
    fill(tmp_path / "set", 2)
    pictures = sorted((tmp_path / "set").glob("*.png"))
    path = tmp_path / "facts.sqlite"
    long, other = Store(path), Store(path)
    long.put("seen", pictures[0], 1)
    started = time.monotonic()
    other.put("seen", pictures[1], 2)
    other.close()
    assert time.monotonic() - started < 10, "a locked database is waited for 30 seconds"
    assert long.get("seen", pictures[0]) == 1 and long.get("seen", pictures[1]) == 2
    long.close()
    assert Store(path).get("seen", pictures[0]) == 1


def test_a_damaged_store_is_put_aside(tmp_path: Path):
    fill(tmp_path / "set", 1)
    (tmp_path / "facts.sqlite").write_bytes(b"this is no database" * 99)
    (record,) = read_folder(tmp_path / "set").records
    assert measure(record, Store(tmp_path / "facts.sqlite")).content
    assert (tmp_path / "facts.sqlite.broken").exists()


def photo(size: tuple[int, int] = (200, 200)) -> Image.Image:
    """Soft shapes over all levels of light, as in a photo, with fine detail."""
    smooth = ImageOps.autocontrast(drawing(70, size).filter(ImageFilter.GaussianBlur(2)))
    return Image.blend(smooth, grain(size, random.Random(71)), 0.06)


COPIES = {
    "the sharpest, not the first": lambda p: {
        "a.png": p.filter(ImageFilter.GaussianBlur(2)),
        "b.png": p,
    },
    "the sharpest, not the last": lambda p: {
        "a.png": p.filter(ImageFilter.GaussianBlur(2)),
        "b.png": p,
        "c.png": p.filter(ImageFilter.GaussianBlur(2.5)),
    },
    "the largest, though it is softer": lambda p: {
        "a.png": p,
        "b.png": p.resize((300, 300)).filter(ImageFilter.GaussianBlur(1)),
    },
    "unchanged, not brightened": lambda p: {
        "a.png": p.point(lambda v: min(255, v * 6 // 5)),
        "b.png": p,
    },
    "unchanged, not darkened": lambda p: {"a.png": p.point(lambda v: v // 2), "b.png": p},
    "unchanged, not of low contrast": lambda p: {
        "a.png": p.point(lambda v: 40 + v * 2 // 3),
        "b.png": p,
    },
    "unchanged, not of high contrast": lambda p: {
        "a.png": p.point(lambda v: max(0, min(255, (v - 128) * 5 // 4 + 128))),
        "b.png": p,
    },
}  # fmt: skip


@pytest.mark.parametrize("case", COPIES)
def test_of_copies_the_best_is_kept_by_the_query_of_the_help_page(tmp_path: Path, case: str):
    fill(tmp_path)
    for name, copy in COPIES[case](photo()).items():
        copy.save(tmp_path / name)
    (tmp_path / "z.png").write_bytes((tmp_path / "b.png").read_bytes())
    (tmp_path / "z.txt").write_text("the same file, with a caption")
    dataset = check(tmp_path).dataset
    help_page = Path(__file__).parents[4] / "web" / "docs" / "Pivotal_CheckDataset.md"
    query = 'not flag == "copy" and not flag == "near_copy"'
    assert query in help_page.read_text(encoding="utf-8")
    kept, _ = split_dataset(dataset, query)
    assert [r.name for r in kept.records if not r.name[0].isdigit()] == ["z.png"]


def test_of_the_same_file_the_captioned_one_is_kept(tmp_path: Path):
    fill(tmp_path)
    (tmp_path / "a.png").write_bytes((tmp_path / "3.png").read_bytes())
    health = check(tmp_path)
    assert "copy" in flags(health, "a.png") and "copy" not in flags(health, "3.png")
    assert "3.png = a.png: the same file; 3.png is kept" in health.report


def brute_clusters(measures: list[Measures], limit: int = 20) -> list[list[int]]:
    """Pairs one by one, joined by hand."""
    group = list(range(len(measures)))
    for i, left in enumerate(measures):
        for j in range(i):
            right = measures[j]
            low = min(left.contrast, right.contrast) <= 0.04
            near = distance(left.likeness, right.likeness) <= limit
            colors = zip(left.color, right.color, strict=True)
            if near and (not low or all(abs(a - b) <= 0.05 for a, b in colors)):
                old, new = group[i], group[j]
                group = [new if g == old else g for g in group]
    found = {g: [i for i, other in enumerate(group) if other == g] for g in group}
    return sorted(members for members in found.values() if len(members) > 1)


def test_clusters_are_those_of_all_pairs_also_through_chains_and_flat_pictures():
    draw = random.Random(1)
    word, many = draw.getrandbits(256), list[Measures]()
    for number in range(60):
        if number % 20 == 0:
            word = draw.getrandbits(256)
        word ^= sum(1 << draw.randrange(256) for _ in range(12))  # a chain of near pictures
        many.append(Measures(likeness=f"{word:064x}", contrast=0.3))
    for number in range(60):
        color = (draw.choice((0.1, 0.13, 0.5)), 0.2, 0.2)
        contrast = draw.choice((0.0, 0.2))
        many.append(Measures(likeness=f"{number % 2:064x}", contrast=contrast, color=color))
    draw.shuffle(many)
    assert sorted(near_copies(many)) == brute_clusters(many)
    assert len(brute_clusters(many)) >= 4


def test_thousands_of_copies_take_seconds_and_few_words():
    draw = random.Random(2)
    same = draw.getrandbits(256)
    words = [same ^ (1 << draw.randrange(256)) for _ in range(6000)]
    many = [Measures(content=str(n % 2), likeness=f"{w:064x}", contrast=0.3, sharpness=9.0)
            for n, w in enumerate(words)]  # fmt: skip
    records = [Record(path=Path(f"{n}.png"), caption="", width=64, height=64) for n in range(6000)]
    started = time.monotonic()
    health = examine(Dataset(name="x", records=tuple(records)), many, FRAMING)
    assert time.monotonic() - started < 20, "pairs one by one take minutes"
    kept = [r for r in health.dataset.records if not {"copy", "near_copy"} & set(r.flags)]
    assert len(kept) == 1 and len(health.report) < 5000


def landscape(kind: str) -> Image.Image:
    """200 x 260: a plain sky over grainy land, bars, or a subject on a plain ground."""
    picture = Image.new("RGB", (200, 260), (140, 180, 230))
    place = random.Random(3)
    land = drawing(50, (200, 160))
    pen = ImageDraw.Draw(picture)
    if kind == "sky over trees":
        picture.paste(land, (0, 100))
        for x in range(0, 200, 4):
            pen.rectangle((x, 0, x + 3, 100 + place.randrange(50)), fill=(140, 180, 230))
    elif kind == "sky over a straight horizon":
        picture.paste(land, (0, 100))
    elif kind == "a ball on a plain ground":
        round_ = Image.new("L", (120, 120))
        ImageDraw.Draw(round_).ellipse((0, 0, 119, 119), fill=255)
        picture.paste(drawing(51, (120, 120)), (40, 70), round_)
    elif kind == "bars above and below":
        picture.paste(land, (0, 50))
    elif kind == "bars left and right":
        picture.paste(drawing(52, (150, 260)), (25, 0))
    elif kind == "a frame":
        picture.paste(drawing(53, (180, 240)), (10, 10))
    return picture


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("sky over trees", 0.0),
        ("sky over a straight horizon", 0.0),
        ("a ball on a plain ground", 0.0),
        ("bars above and below", 100 / 260),
        ("bars left and right", 50 / 200),
        ("a frame", 1 - 180 * 240 / (200 * 260)),
    ],
)
def test_bars_are_a_border_and_a_plain_sky_is_none(kind: str, share: float):
    assert border_share(landscape(kind)) == pytest.approx(share, abs=0.02)
    soft = landscape(kind).filter(ImageFilter.GaussianBlur(1))
    assert border_share(soft) == pytest.approx(share, abs=0.05)


def test_chinese_letters_count_as_tokens_and_english_words_as_before():
    chinese = "\u4e00\u53ea\u732b\u5750\u5728\u6905\u5b50\u4e0a\u3002\u597d" * 35
    assert rough_tokens(chinese) >= 315 and rough_tokens("a photo of TOK, outside") == 6
    korean, japanese = "\uace0\uc591\uc774 \uc0ac\uc9c4", "\u30cd\u30b3\u306e\u5199\u771f"
    assert (rough_tokens(korean), rough_tokens(japanese)) == (5, 5)


FINISHED = [
    'She says. He says "I am here."',
    "A cat. It sleeps “like a log.”",
    "A dog. So…",
    "A dog. It waits...",
    "A dog. It waits.**",
    "一只猫。它睡着了。",
    "猫がいる。「寝る。」",
    "A dog. Wow!)",
    "tag one, tag two",
]
UNFINISHED = ["A cat on a mat. It sleeps on", 'He says "stay." The dog then',
              "\u4e00\u53ea\u732b\u3002\u5b83\u7761\u5728"]  # fmt: skip


def test_a_caption_is_unfinished_only_where_a_sentence_is_cut():
    assert [text for text in FINISHED if is_unfinished(text)] == []
    assert [text for text in UNFINISHED if not is_unfinished(text)] == []
