"""Buckets and crops follow the settings of Prepare Images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from pack.training.dataset.folder.read import read_folder
from pack.training.dataset.pictures.buckets import bucket_sizes, latent_mask, load_mask, load_pixels
from pack.training.dataset.pictures.crops import choose_buckets, histogram, kept_share, plan_crops
from pack.training.dataset.pictures.sheets import crop_sheet, framed_crop, trained_view
from pack.training.dataset.records import Anchor, Box, Framing, Record
from pack.training.ports import Crop


def record(width: int, height: int, **fields: object) -> Record:
    return Record(path=Path("a.png"), caption="", width=width, height=height, **fields)


def only(width: int, height: int, framing: Framing, **fields: object) -> Crop:
    ((crop,),) = plan_crops([record(width, height, **fields)], framing)
    return crop


def test_sides_can_be_bounded():
    sizes = bucket_sizes(512, 64, min_side=384, max_side=704)
    assert (512, 512) in sizes and (384, 640) in sizes
    assert min(map(min, sizes)) == 384 and max(map(max, sizes)) <= 704


def test_small_pictures_are_not_enlarged_when_asked():
    framing = Framing(resolution=512, upscale=False)
    assert choose_buckets([(300, 200), (2000, 2000), (40, 500)], framing) == [
        (256, 192),
        (512, 512),
        (64, 448),
    ]
    assert only(300, 200, framing).resized == (288, 192)


def test_small_buckets_are_merged_into_the_nearest():
    sizes = [(100, 100)] * 5 + [(160, 100)] * 2 + [(300, 100)]
    plain = choose_buckets(sizes, Framing(resolution=512))
    assert len(set(plain)) == 3
    merged = choose_buckets(sizes, Framing(resolution=512, min_pictures=2))
    assert merged[:7] == plain[:7] and merged[7] == plain[5]
    assert set(choose_buckets(sizes, Framing(resolution=512, min_pictures=4))) == {(512, 512)}
    assert choose_buckets([(300, 100)], Framing(resolution=512, min_pictures=4)) == [(832, 256)]


def test_anchors_decide_what_a_crop_keeps():
    framing = {a: Framing(resolution=64, anchor=a) for a in Anchor}
    assert (only(64, 128, framing[Anchor.CENTER]).top, only(64, 128, framing[Anchor.TOP]).top) == (
        32,
        0,
    )
    low = (Box(0, 0, 5, 5), Box(10, 100, 40, 20))
    assert only(64, 128, framing[Anchor.FACE], boxes=low).top == 64
    middle = (Box(10, 60, 20, 20),)
    assert only(64, 128, framing[Anchor.FACE], boxes=middle).top == 70 - 32
    assert only(64, 128, framing[Anchor.FACE]).top == 32


def test_a_mask_moves_the_crop_and_is_cropped_alike(tmp_path: Path):
    Image.linear_gradient("L").resize((64, 128)).convert("RGB").save(tmp_path / "a.png")
    mask = Image.new("L", (64, 128))
    mask.paste(255, (0, 96, 32, 128))
    mask.save(tmp_path / "a_mask.png")
    (one,) = read_folder(tmp_path).records
    ((crop,),) = plan_crops([one], Framing(resolution=64, anchor=Anchor.MASK))
    assert crop.top == 64
    assert load_pixels(one, crop)[0, 0, 0].item() == pytest.approx(0.5, abs=0.02)
    cut = load_mask(one, crop)
    assert cut[:30].max() == 0 and cut[40:, :30].min() == 1 and cut[:, 34:].max() == 0
    weights = latent_mask(one, crop, (8, 8), floor=0.25)
    expected = torch.full((8, 8), 0.25)
    expected[4:, :4] = 1
    torch.testing.assert_close(weights, expected, atol=0.02, rtol=0)


def test_what_a_codec_cuts_off_is_cut_off_the_mask(tmp_path: Path):
    """Of 72 pixels a codec of 16 takes the middle 64: 4 are lost at each side."""
    Image.new("RGB", (72, 72)).save(tmp_path / "a.png")
    mask = Image.new("L", (72, 72))
    mask.paste(255, (0, 20, 36, 72))
    mask.save(tmp_path / "a_mask.png")
    (one,) = read_folder(tmp_path).records
    crop = Crop(width=72, height=72, left=0, top=0, original_width=72, original_height=72)
    wanted = torch.zeros(4, 4)
    wanted[1:, :2] = 1
    assert torch.equal(latent_mask(one, crop, (4, 4), 0.0, step=16), wanted)


def test_a_black_mask_is_a_sentence_unless_a_floor_is_left(tmp_path: Path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    Image.new("L", (64, 64)).save(tmp_path / "a_mask.png")
    (one,) = read_folder(tmp_path).records
    crop = Crop(width=64, height=64, left=0, top=0, original_width=64, original_height=64)
    assert latent_mask(one, crop, (8, 8), 0.1).unique().numel() == 1
    with pytest.raises(ValueError, match=r"The mask of a.png is black where .* mask_floor above 0"):
        latent_mask(one, crop, (8, 8), 0.0)


def test_random_crops_are_many_stay_inside_and_never_change():
    framing = Framing(resolution=64, anchor=Anchor.RANDOM, views=200)
    (crops,) = plan_crops([record(64, 128)], framing)
    assert (crops,) == tuple(plan_crops([record(64, 128)], framing))
    tops = [crop.top for crop in crops]
    assert len(set(tops)) == len(tops) > 50
    assert min(tops) >= 0 and max(tops) <= 64 and {0, 64} & set(tops)
    assert len(plan_crops([record(64, 64)], framing)[0]) == 1


def test_records_keep_their_own_framing():
    own = record(100, 100, framing=Framing(resolution=128))
    crops = plan_crops([own, record(100, 100)], Framing(resolution=64))
    assert [each[0].width for each in crops] == [128, 64]


def test_the_histogram_counts_and_the_sheet_frames_what_is_trained(tmp_path: Path):
    Image.new("RGB", (200, 100), "white").save(tmp_path / "a.png")
    (one,) = read_folder(tmp_path).records
    ((crop,),) = plan_crops([one], Framing(resolution=64))
    assert histogram([crop, crop]).split()[:4] == ["64", "x", "64", "2"]
    assert kept_share(crop) == pytest.approx(0.5)
    shown = framed_crop(Image.new("RGB", (200, 100), "white"), crop)
    assert shown.getpixel((100, 50)) == (255, 255, 255)
    assert shown.getpixel((10, 50))[1] < 150 and shown.getpixel((190, 50))[1] < 150
    assert crop_sheet([one], [crop]).size[0] > 160


def test_a_small_picture_is_red_outside_of_crop_and_mask(tmp_path: Path):
    Image.new("RGB", (200, 100), "white").save(tmp_path / "a.png")
    mask = Image.new("L", (200, 100))
    mask.paste(255, (0, 0, 100, 100))
    mask.save(tmp_path / "a_mask.png")
    (one,) = read_folder(tmp_path).records
    ((crop,),) = plan_crops([one], Framing(resolution=64))

    def red(shown: Image.Image) -> list[bool]:
        return [shown.getpixel((x, 50))[1] < 150 for x in (10, 70, 130, 190)]

    assert red(trained_view(one, 200)) == [False, False, True, True]
    assert red(trained_view(one, 200, crop)) == [True, False, True, True]
    (tmp_path / "a_mask.png").write_bytes(b"no mask")
    assert red(trained_view(one, 200, crop)) == [True, False, False, True]
