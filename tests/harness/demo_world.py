"""The world of the demo: a small checkpoint and a set of captioned pictures, made on the spot.

Run by `harness.demo` with the environment's Python: `python -m harness.demo_world HOST BASE
CHECKPOINT FOLDER`.
"""

from __future__ import annotations

import sys
from pathlib import Path

PLACEHOLDER = "TOK"
# A creature that the sprite world does not have, in two inks.
CREATURE = (".#..#.", ".####.", "#o##o#", "######", ".####.", ".#..#.")
BACKGROUNDS = ("blue", "green", "white", "black")
PLACES = ("", "at the left", "at the right")


def demo_world(base_directory: Path, checkpoint: str, folder: str) -> None:
    """Write `models/checkpoints/<checkpoint>` and `input/<folder>/*.png` with their captions."""
    write_pictures(base_directory / "input" / folder)
    write_checkpoint(base_directory / "models" / "checkpoints" / checkpoint)


def write_checkpoint(path: Path) -> None:
    """The trained sprite base where the world has one, else the tiny SD1.5 checkpoint."""
    from world import base, checkpoints

    path.parent.mkdir(parents=True, exist_ok=True)
    build = base.build_base if base.COMPACT.exists() else checkpoints.build_sd15
    build(path)


def write_pictures(folder: Path) -> None:
    """Twelve pictures, 64 x 64, of one creature on several backgrounds and places."""
    import torch
    from PIL import Image

    from world import sprites

    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    inks = {"#": sprites.COLORS["yellow"], "o": sprites.COLORS["black"]}
    for background in BACKGROUNDS:
        for place in PLACES:
            cells = sprites.paint(
                CREATURE,
                inks,
                sprites.COLORS[background],
                place=sprites.PLACES[place],
                generator=generator,
            )
            pixels = (sprites.enlarge(cells).clamp(0, 1) * 255).round().to(torch.uint8)
            name = f"{background} {place or 'in the middle'}"
            Image.fromarray(pixels.numpy()).save(folder / f"{name}.png")
            caption = f"a {PLACEHOLDER} {place} on a {background} background".replace("  ", " ")
            (folder / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")


if __name__ == "__main__":
    host, base, checkpoint, folder = sys.argv[1:]
    del sys.argv[1:]
    sys.path.insert(0, host)
    import comfy.options  # noqa: F401  - must come before cli_args
    from comfy.cli_args import args

    args.cpu, args.base_directory = True, base
    demo_world(Path(base), checkpoint, folder)
