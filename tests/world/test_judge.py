"""The judge reads every picture that the sprite world draws, and refuses what is not clear."""

from __future__ import annotations

import torch

from world.concepts import (
    CREW,
    HATCHING,
    NEW_COLORS,
    NEW_SHAPES,
    character_pictures,
    crew_pictures,
    hatched,
    shape_pictures,
    style_pictures,
    write_folder,
)
from world.judge import judge
from world.sprites import COLORS, PLACES, SHAPES, Scene, all_scenes, draw, split_scenes

SCENE = Scene(shape="moon", color="red", background="white")
CREATURES = {name: character.bitmap for name, character in CREW.items()}
ALL_COLORS = {**COLORS, **NEW_COLORS}


def is_right(pixels, scene):
    verdict = judge(pixels)
    seen = (verdict.shape, verdict.color, verdict.background, verdict.place)
    return seen == (scene.shape, scene.color, scene.background, PLACES[scene.place])


def test_every_picture_of_the_world_is_read_right():
    shake = torch.Generator().manual_seed(0)
    scenes = all_scenes()[::3]
    assert all(is_right(draw(scene, shake), scene) for scene in scenes)


def test_noise_and_blur_of_a_sixth_are_forgiven():
    pixels = draw(SCENE)
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    assert is_right((pixels + noise / 6).clamp(0, 1), SCENE)
    soft = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 0), 5, 1, 2, count_include_pad=False)
    assert is_right(soft.movedim(0, -1), SCENE)


def test_pure_noise_is_nothing():
    noise = torch.rand(20, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    assert not any(judge(pixels).background or judge(pixels).shape for pixels in noise)


def test_a_strong_blur_hides_the_shape_only():
    pixels = draw(SCENE).movedim(-1, 0)
    soft = torch.nn.functional.avg_pool2d(pixels, 33, 1, 16, count_include_pad=False)
    verdict = judge(soft.movedim(0, -1))
    assert verdict.shape is None


def test_a_wrong_color_is_named():
    assert judge(draw(Scene(shape="moon", color="blue", background="white"))).color == "blue"
    tinted = draw(SCENE)
    tinted[tinted[..., 1] < 0.5] = torch.tensor(HATCHING)
    verdict = judge(tinted)
    assert (verdict.shape, verdict.color, verdict.background) == ("moon", None, "white")


def test_a_half_drawn_shape_is_not_taken_for_it():
    pixels = draw(SCENE)
    pixels[:, 32:] = torch.tensor(COLORS["white"])
    assert judge(pixels).shape is None


def test_a_sprite_of_two_halves_has_no_color():
    pixels = draw(Scene(shape="square", color="red", background="white"))
    pixels[8:32, 8:56] = torch.tensor(COLORS["blue"])
    verdict = judge(pixels)
    assert (verdict.shape, verdict.color) == ("square", None)


def test_new_shapes_and_characters_are_read_right():
    for picture in shape_pictures("TOK"):
        verdict = judge(picture.pixels, {**SHAPES, **NEW_SHAPES})
        assert verdict.shape == "heart"
        assert f"a {verdict.color} TOK" in picture.caption
        assert f"on a {verdict.background} background" in picture.caption
    for name, character in CREW.items():
        for picture in character_pictures("TOK", character=name):
            verdict = judge(picture.pixels, {**SHAPES, **CREATURES}, ALL_COLORS)
            assert verdict.shape == name
            assert verdict.colors == character.inks


def test_the_style_is_seen_and_leaves_shape_and_color_readable():
    for picture in style_pictures("TOK"):
        verdict = judge(picture.pixels, hatching=HATCHING)
        assert verdict.hatched
        assert f"a {verdict.color} {verdict.shape} on a {verdict.background}" in picture.caption
    assert not judge(draw(SCENE), hatching=HATCHING).hatched


def test_gray_in_the_wrong_places_is_not_the_style():
    pixels = hatched(draw(SCENE), COLORS["white"])
    assert judge(pixels, hatching=HATCHING).hatched
    assert not judge(pixels.roll(8, 0), hatching=HATCHING).hatched
    upright = hatched(draw(SCENE).transpose(0, 1), COLORS["white"]).transpose(0, 1)
    assert judge(upright, hatching=HATCHING).shape == "moon"
    assert not judge(upright, hatching=HATCHING).hatched


def test_a_set_names_each_of_its_characters_and_writes_them_with_captions(tmp_path):
    placeholders = {name: f"TOK{number}" for number, name in enumerate(CREW)}
    pictures = crew_pictures(placeholders, "TOKS", count=2)
    write_folder(pictures, tmp_path)
    captions = [path.read_text().strip() for path in sorted(tmp_path.glob("*.txt"))]
    assert captions == [picture.caption for picture in pictures]
    assert len(list(tmp_path.glob("*.png"))) == 2 * (len(CREW) + 1)
    for word in [*placeholders.values(), "TOKS"]:
        assert sum(word in caption.replace(",", "").split() for caption in captions) == 2


def test_no_concept_picture_uses_the_colors_kept_for_questions():
    pictures = shape_pictures("TOK", count=40) + style_pictures("TOK", count=40)
    assert not any(word in p.caption for p in pictures for word in ("cyan", "pink"))


def test_held_out_triples_are_in_no_training_scene():
    training, held = split_scenes()
    triples = {(s.shape, s.color, s.background) for s in held}
    assert len(triples) == 56
    assert not triples & {(s.shape, s.color, s.background) for s in training}
