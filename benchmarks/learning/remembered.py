"""Pictures of what the base can draw, drawn by itself, which a prior keeps in its memory."""

from __future__ import annotations

import os
import random
from pathlib import Path

from pack.training.dataset.folder.read import read_folder
from pack.training.dataset.records import Dataset
from world.concepts import Picture, write_folder
from world.sampling import Models, sample
from world.sprites import split_scenes

PICTURES, SEED = 64, 777


def base_pictures(base: Models, folder: Path) -> Dataset:
    """The base's own pictures of some of the scenes that it was trained on, with their captions."""
    place = folder / f"remembered_{PICTURES}_{SEED}"
    if not place.exists():
        scenes = random.Random(SEED).sample(split_scenes()[0], PICTURES)
        pixels = sample(base, [scene.caption for scene in scenes], first_seed=SEED).clamp(0, 1)
        drawn = [
            Picture(pixels=picture, caption=scene.caption)
            for picture, scene in zip(pixels, scenes, strict=True)
        ]
        part = place.with_suffix(".part")
        write_folder(drawn, part)
        os.replace(part, place)
    return read_folder(place)
