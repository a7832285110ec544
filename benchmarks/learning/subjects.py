"""What is learned in the sprite world: the pictures of each subject and the prompts for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from world.concepts import (
    CREW,
    SEEN_COLORS,
    UNSEEN_COLORS,
    Picture,
    caption_of,
    character_pictures,
    color_pictures,
    crew_pictures,
    shape_pictures,
    style_pictures,
)
from world.sprites import COLORS, SHAPES

HEART, STYLE, COLOR = "heart", "hatching", "cyan"
"""The base can already draw the color: only its name is new."""
SCATTERED = "scattered"
"""The character at random places."""
LOOK = "every second row gray"
"""What the style looks like."""
PICTURES, STYLE_PICTURES = 8, 24
"""A style needs more pictures: it has to be seen on many things."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A prompt and what a picture of it has to show."""

    prompt: str
    concept: str
    background: str
    color: str = ""
    """Empty where the concept has its own colors"""
    shape: str = ""
    """Empty where the concept is a shape"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One concept, or several that a run learns together."""

    concepts: Mapping[str, str]
    """concept -> its class word, which the base knows"""
    pictures: Callable[[Mapping[str, str], int], Sequence[Picture]]
    """Training pictures, given concept -> its word in the captions, and a seed"""
    steps: int
    """The whole budget"""
    seen: str = "at every place"
    """Where the training pictures show it"""
    batch: int = 4


def grounds(number: int) -> list[str]:
    """Backgrounds in turn; every second one is in no training picture."""
    return [
        UNSEEN_COLORS[i // 2 % len(UNSEEN_COLORS)]
        if i % 2
        else SEEN_COLORS[i // 2 % len(SEEN_COLORS)]
        for i in range(number)
    ]


def other_color(number: int, background: str) -> str:
    """A color other than the background; every fourth one is in no training picture."""
    names = UNSEEN_COLORS if number % 4 == 0 else tuple(COLORS)
    fitting = [name for name in names if name != background]
    return fitting[number // 4 % len(fitting)]


def ask(concept: str, word: str, number: int, background: str) -> Asked:
    """Prompt `number` for a concept whose name in prompts is `word`."""
    if concept in CREW:
        prompt = caption_of(f"a {word}", "", background)
        return Asked(prompt=prompt, concept=concept, background=background)
    if concept == COLOR:
        return ask_color(word, number, background)
    color = other_color(number, background)
    shape = "" if concept == HEART else tuple(SHAPES)[number % len(SHAPES)]
    prompt = caption_of(f"a {color} {shape or word}", "", background)
    return Asked(
        prompt=prompt if concept == HEART else f"{prompt}, {word} style",
        concept=concept,
        background=background,
        color=color,
        shape=shape,
    )


def ask_color(word: str, number: int, background: str) -> Asked:
    """A prompt for a known shape in the color named `word`, on a background of another color."""
    shape = tuple(SHAPES)[number % len(SHAPES)]
    ground = "white" if background == COLOR else background
    prompt = caption_of(f"a {word} {shape}", "", ground)
    return Asked(prompt=prompt, concept=COLOR, background=ground, shape=shape)


def prompts_for(words: Mapping[str, str], number: int) -> list[Asked]:
    """`number` prompts for every concept, given its word in prompts."""
    return [
        ask(concept, word, i, background)
        for concept, word in words.items()
        for i, background in enumerate(grounds(number))
    ]


def _crew(words: Mapping[str, str], seed: int) -> Sequence[Picture]:
    characters = {concept: word for concept, word in words.items() if concept in CREW}
    return crew_pictures(characters, words[STYLE], count=PICTURES, styled=STYLE_PICTURES, seed=seed)


SUBJECTS: Mapping[str, Subject] = {
    "character": Subject(
        concepts={"robot": "square"},
        pictures=lambda words, seed: character_pictures(words["robot"], count=PICTURES, seed=seed),
        steps=400,
    ),
    # The harder set: methods that all learn the one above differ here.
    SCATTERED: Subject(
        concepts={"robot": "square"},
        pictures=lambda words, seed: character_pictures(
            words["robot"], count=PICTURES, seed=seed, everywhere=False
        ),
        steps=400,
        seen="at places by chance",  # part of the digests of committed rows
    ),
    "shape": Subject(
        concepts={HEART: "square"},
        pictures=lambda words, seed: shape_pictures(words[HEART], count=PICTURES, seed=seed),
        steps=400,
    ),
    "color": Subject(
        concepts={COLOR: "red"},
        pictures=lambda words, seed: color_pictures(
            words[COLOR], color=COLOR, count=PICTURES, seed=seed
        ),
        steps=200,
    ),
    "style": Subject(
        concepts={STYLE: "picture"},
        pictures=lambda words, seed: style_pictures(words[STYLE], count=STYLE_PICTURES, seed=seed),
        steps=1200,
    ),
    "crew": Subject(
        concepts={**dict.fromkeys(CREW, "square"), STYLE: "picture"},
        pictures=_crew,
        steps=2400,
        batch=8,
    ),
}
