"""Buckets keep to their area, crops lie inside and in the middle, pixels are Pillow's own."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from PIL import Image
from training.toys import nearest_crop

from pack.training.dataset.pictures.buckets import bucket_sizes, load_pixels
from pack.training.dataset.records import Record


def test_resolution_512_gives_the_usual_list():
    lying = [(1024, 256), (960, 256), (896, 256), (832, 256), (768, 320), (704, 320)]
    lying += [(640, 384), (576, 448)]
    expected = {(512, 512), *lying, *((height, width) for width, height in lying)}
    assert set(bucket_sizes(512)) == expected


def test_resolution_1024_holds_the_sizes_that_sdxl_names():
    named = {(1024, 1024), (1152, 896), (1216, 832), (1344, 768), (1536, 640), (640, 1536)}
    assert named <= set(bucket_sizes(1024))


def test_resolution_64_is_one_square():
    assert bucket_sizes(64, 64) == ((64, 64),)


def test_the_square_is_rounded_down_to_the_step():
    assert (448, 448) in bucket_sizes(500) and (512, 512) not in bucket_sizes(500)


def test_the_area_of_the_other_buckets_is_not_rounded():
    assert (384, 640) in bucket_sizes(500)


@pytest.mark.parametrize(("resolution", "step"), [(63, 64), (0, 64), (-1, 8), (64, 0)])
def test_a_resolution_below_the_step_is_refused(resolution: int, step: int):
    with pytest.raises(ValueError, match=f"resolution is {resolution}"):
        bucket_sizes(resolution, step)


def test_buckets_keep_to_area_sides_and_step():
    draw = random.Random(0)
    for _ in range(300):
        step = draw.choice([8, 16, 32, 64])
        resolution = draw.randrange(step, 1500)
        sizes = bucket_sizes(resolution, step)
        assert len(set(sizes)) == len(sizes) and set(sizes) == {(h, w) for w, h in sizes}
        square = resolution // step * step
        for width, height in sizes:
            assert width % step == height % step == 0
            assert width * height <= resolution**2
            inside = resolution / 2 <= min(width, height) and max(width, height) <= 2 * resolution
            assert inside or width == height == square


def test_every_size_gets_the_nearest_bucket_and_a_centered_crop_that_it_covers():
    draw = random.Random(1)
    for _ in range(5000):
        sizes = bucket_sizes(draw.choice([64, 256, 500, 512, 1024]), draw.choice([8, 32, 64]))
        width, height = (round(math.exp(draw.uniform(0, 9))) for _ in range(2))
        crop = nearest_crop(width, height, sizes)
        resized = crop.resized
        assert (crop.original_width, crop.original_height) == (width, height)

        far = [abs(math.log(w / h * height / width)) for w, h in sizes]
        assert math.isclose(abs(math.log(crop.width / crop.height * height / width)), min(far))

        scale = max(crop.width / width, crop.height / height)
        assert abs(resized[0] - width * scale) <= 1 and abs(resized[1] - height * scale) <= 1
        assert crop.width == resized[0] or crop.height == resized[1]

        assert crop.left >= 0 and crop.left + crop.width <= resized[0]
        assert crop.top >= 0 and crop.top + crop.height <= resized[1]
        assert abs(resized[0] - crop.width - 2 * crop.left) <= 1
        assert abs(resized[1] - crop.height - 2 * crop.top) <= 1


def test_of_two_buckets_of_the_same_shape_the_larger_is_taken():
    crop = nearest_crop(300, 300, [(256, 256), (512, 512), (384, 384)])
    assert (crop.width, crop.height) == (512, 512)


def noise(path: Path, width: int, height: int) -> tuple[Image.Image, Record]:
    """A picture of which no two pixels are alike by a rule, and its record."""
    bits = random.Random(0).randbytes(width * height * 3)
    picture = Image.frombytes("RGB", (width, height), bits)
    picture.save(path)
    return picture, Record(path=path, caption="", width=width, height=height)


def test_pixels_are_those_of_pillow(tmp_path: Path):
    picture, record = noise(tmp_path / "noise.png", 168, 96)
    crop = nearest_crop(168, 96, [(64, 64)])
    assert (crop.resized, crop.left, crop.top) == ((112, 64), 24, 0)
    resized = picture.resize((112, 64), Image.Resampling.LANCZOS)

    pixels = load_pixels(record, crop)

    assert pixels.shape == (64, 64, 3) and pixels.dtype == torch.float32
    for x, y in [(0, 0), (63, 0), (0, 63), (31, 17), (63, 63)]:
        expected = [value / 255 for value in resized.getpixel((24 + x, y))]
        assert pixels[y, x].tolist() == pytest.approx(expected, abs=1e-7)
    assert (pixels * 255).round().byte().numpy().tobytes() == (
        resized.crop((24, 0, 88, 64)).tobytes()
    )


def test_a_crop_between_pixels_is_off_by_no_more_than_one_rounding(tmp_path: Path):
    picture, record = noise(tmp_path / "noise.png", 150, 90)
    crop = nearest_crop(150, 90, [(64, 64)])
    assert (crop.resized, crop.left, crop.top) == ((107, 64), 21, 0)
    resized = picture.resize((107, 64), Image.Resampling.LANCZOS).crop((21, 0, 85, 64))
    found = (load_pixels(record, crop) * 255).round().byte().numpy().tobytes()
    # Pillow holds the corners of what it resizes in fp32, so a value in the middle may round away.
    apart = [abs(a - b) for a, b in zip(found, resized.tobytes(), strict=True)]
    assert max(apart) <= 1 and sum(apart) <= 3


@pytest.mark.parametrize("size", [(192, 64), (64, 192)])
def test_the_crop_is_the_middle_of_the_picture(tmp_path: Path, size: tuple[int, int]):
    picture = Image.new("RGB", size, "blue")
    picture.paste(
        "red", ((size[0] - 64) // 2, (size[1] - 64) // 2, *(side // 2 + 32 for side in size))
    )
    picture.save(tmp_path / "middle.png")
    record = Record(path=tmp_path / "middle.png", caption="", width=size[0], height=size[1])
    pixels = load_pixels(record, nearest_crop(*size, [(64, 64)]))
    assert torch.equal(pixels, torch.tensor([1.0, 0.0, 0.0]).expand(64, 64, 3))


def test_a_size_that_fits_is_not_resampled(tmp_path: Path):
    picture = Image.effect_noise((64, 128), 100).convert("RGB")
    picture.save(tmp_path / "same.png")
    record = Record(path=tmp_path / "same.png", caption="", width=64, height=128)
    pixels = load_pixels(record, nearest_crop(64, 128, [(64, 128)]))
    assert (pixels * 255).round().byte().numpy().tobytes() == picture.tobytes()
