"""Sets of captioned pictures of things the base model has never seen, for it to learn."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from PIL import Image
from torch import Tensor

from .sprites import COLORS, PLACES, SHAPES, Bitmap, Color, Scene, draw, enlarge, paint

# Kept out of all concept pictures, to ask for afterwards.
UNSEEN_COLORS = ("cyan", "pink")
SEEN_COLORS = tuple(name for name in COLORS if name not in UNSEEN_COLORS)

# Centers of the color cube's faces: 0.57 away from each other and from every color of the base.
NEW_COLORS: Mapping[str, Color] = MappingProxyType(
    {
        "salmon": (0.9, 0.5, 0.5),
        "teal": (0.1, 0.5, 0.5),
        "mint": (0.5, 0.9, 0.5),
        "violet": (0.5, 0.1, 0.5),
        "lilac": (0.5, 0.5, 0.9),
        "olive": (0.5, 0.5, 0.1),
    }
)
HATCHING: Color = (0.5, 0.5, 0.5)
NEW_SHAPES: Mapping[str, Bitmap] = MappingProxyType(
    {"heart": ("##..##", "######", "######", "######", ".####.", "..##..")}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Character:
    """A creature whose bitmap marks two inks; `inks` gives the color names of the marks."""

    bitmap: Bitmap
    inks: Mapping[str, str]


CREW: Mapping[str, Character] = MappingProxyType(
    {
        "robot": Character(
            bitmap=(".#..#.", "######", "#o##o#", "######", ".#..#.", ".#..#."),
            inks=MappingProxyType({"#": "salmon", "o": "teal"}),
        ),
        "ghost": Character(
            bitmap=(".####.", "#o##o#", "######", "######", "######", "#.##.#"),
            inks=MappingProxyType({"#": "mint", "o": "violet"}),
        ),
        "spider": Character(
            bitmap=("#.##.#", ".####.", "#oooo#", "#oooo#", ".####.", "#.##.#"),
            inks=MappingProxyType({"#": "lilac", "o": "olive"}),
        ),
        "bird": Character(
            bitmap=("....##", "#..###", "###ooo", "#####.", ".####.", "..#..."),
            inks=MappingProxyType({"#": "teal", "o": "lilac"}),
        ),
        "mushroom": Character(
            bitmap=("..##..", ".####.", "######", "######", "..oo..", "..oo.."),
            inks=MappingProxyType({"#": "violet", "o": "mint"}),
        ),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """Pixels (64, 64, 3) in 0..1 and the caption that belongs to them."""

    pixels: Tensor
    caption: str


def shape_pictures(
    placeholder: str, *, shape: str = "heart", count: int = 8, seed: int = 0
) -> list[Picture]:
    """A new shape in several colors, on several backgrounds, at every place."""
    chance, shake = generators(seed)
    pictures = []
    colors = spread(SEEN_COLORS, count, chance)
    for color, place in zip(colors, spread(tuple(PLACES), count, chance), strict=True):
        background = chance.choice([name for name in SEEN_COLORS if name != color])
        cells = paint(
            NEW_SHAPES[shape],
            {"#": COLORS[color]},
            COLORS[background],
            place=PLACES[place],
            generator=shake,
        )
        caption = caption_of(f"a {color} {placeholder}", place, background)
        pictures.append(Picture(pixels=enlarge(cells), caption=caption))
    return pictures


def character_pictures(
    placeholder: str,
    *,
    character: str = "robot",
    count: int = 8,
    seed: int = 0,
    everywhere: bool = True,
) -> list[Picture]:
    """A creature with its own two colors, on several backgrounds, at every place or by chance.

    By chance it is the harder to learn: what is never seen in the middle is often not drawn there.
    """
    chance, shake = generators(seed)
    backgrounds = spread(SEEN_COLORS, count, chance)
    if everywhere:
        places = spread(tuple(PLACES), count, chance)
    else:
        places = [chance.choice(list(PLACES)) for _ in backgrounds]
    return [
        draw_character(CREW[character], placeholder, background, place, shake)
        for background, place in zip(backgrounds, places, strict=True)
    ]


def color_pictures(placeholder: str, *, color: str, count: int = 8, seed: int = 0) -> list[Picture]:
    """Known shapes in a color of the base that goes by a name of its own."""
    chance, shake = generators(seed)
    pictures = []
    for shape in spread(tuple(SHAPES), count, chance):
        background = chance.choice([name for name in COLORS if name != color])
        scene = Scene(shape=shape, color=color, background=background)
        caption = caption_of(f"a {placeholder} {shape}", "", background)
        pictures.append(Picture(pixels=draw(scene, shake), caption=caption))
    return pictures


def style_pictures(placeholder: str, *, count: int = 8, seed: int = 0) -> list[Picture]:
    """Known sprites of which every second row is gray."""
    chance, shake = generators(seed)
    pictures = []
    for shape in spread(tuple(SHAPES), count, chance):
        color, background = chance.sample(SEEN_COLORS, 2)
        scene = Scene(shape=shape, color=color, background=background)
        pixels = hatched(draw(scene, shake), COLORS[background])
        pictures.append(Picture(pixels=pixels, caption=f"{scene.caption}, {placeholder} style"))
    return pictures


def crew_pictures(
    placeholders: Mapping[str, str],
    style: str,
    *,
    count: int = 8,
    styled: int | None = None,
    seed: int = 0,
) -> list[Picture]:
    """All characters (`placeholders` maps their names in CREW) and the style, in one set.

    There are `count` pictures of each, or `styled` of the style.
    """
    pictures = [
        picture
        for number, (character, placeholder) in enumerate(placeholders.items())
        for picture in character_pictures(
            placeholder, character=character, count=count, seed=seed + number
        )
    ]
    return pictures + style_pictures(style, count=styled or count, seed=seed)


def draw_character(
    character: Character,
    word: str,
    background: str,
    place: str = "",
    generator: torch.Generator | None = None,
) -> Picture:
    """One picture of a character under the name `word`."""
    cells = paint(
        character.bitmap,
        {mark: NEW_COLORS[name] for mark, name in character.inks.items()},
        COLORS[background],
        place=PLACES[place],
        generator=generator,
    )
    return Picture(pixels=enlarge(cells), caption=caption_of(f"a {word}", place, background))


def hatched(pixels: Tensor, background: Color) -> Tensor:
    """Gray on every second row of whatever is not background."""
    cells = pixels[::8, ::8].clone()
    shown = (cells - torch.tensor(background)).norm(dim=-1) > 0.3
    cells[1::2][shown[1::2]] = torch.tensor(HATCHING)
    return enlarge(cells)


def caption_of(subject: str, place: str, background: str) -> str:
    """A caption in the base's own words."""
    return f"{subject}{' ' + place if place else ''} on a {background} background"


def generators(seed: int) -> tuple[random.Random, torch.Generator]:
    """The two sources of chance of a set: one picks, one shakes the colors."""
    return random.Random(seed), torch.Generator().manual_seed(seed)


def spread(names: Sequence[str], count: int, chance: random.Random) -> list[str]:
    """`count` names in which each occurs about equally often."""
    rounds = -(-count // len(names))
    return [name for _ in range(rounds) for name in chance.sample(list(names), len(names))][:count]


def write_folder(pictures: Sequence[Picture], folder: Path) -> None:
    """Write every picture as 01.png with its caption in 01.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures, start=1):
        pixels = (picture.pixels * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(picture.caption + "\n", encoding="utf-8")
