"""The world of the demo: a small checkpoint and a set of captioned pictures, made on the spot.

Run by `harness.tools.demo` with the environment's Python:
`python -m harness.tools.demo_world HOST BASE CHECKPOINT FOLDER [CAPTIONER...]`.
"""

from __future__ import annotations

import sys
from pathlib import Path

PLACEHOLDER = "TOK"
CREW = {"robot": "ANNA", "ghost": "BEN"}
# At places by chance: what saved workflows gave then was recorded with these pictures.
SPREAD = False


def demo_world(base_directory: Path, checkpoint: str, folder: str, *captioners: str) -> None:
    """Write a checkpoint, two folders of captioned pictures, and tiny models in models/LLM."""
    write_pictures(base_directory / "input" / folder)
    write_crew(base_directory / "input" / "demo_crew")
    write_checkpoint(base_directory / "models" / "checkpoints" / checkpoint)
    for captioner in captioners:
        from harness.models.captioners import save_captioner

        save_captioner("florence2", base_directory / "models" / "LLM" / captioner)


def write_checkpoint(path: Path) -> None:
    """The trained sprite base where the world has one, else the tiny SD1.5 checkpoint."""
    from world import base, checkpoints

    path.parent.mkdir(parents=True, exist_ok=True)
    build = base.build_base if base.COMPACT.exists() else checkpoints.build_sd15
    build(path)


def write_pictures(folder: Path) -> None:
    """Twelve pictures, 64 x 64, of a robot on the backgrounds that the prompt does not ask for."""
    from world.concepts import character_pictures, write_folder

    pictures = character_pictures(PLACEHOLDER, character="robot", count=12, everywhere=SPREAD)
    write_folder(pictures, folder)


def write_crew(folder: Path) -> None:
    """Six pictures of each of two characters, in one folder."""
    from world.concepts import character_pictures, write_folder

    pictures = [
        picture
        for character, word in CREW.items()
        for picture in character_pictures(word, character=character, count=6, everywhere=SPREAD)
    ]
    write_folder(pictures, folder)


if __name__ == "__main__":
    host, base, *names = sys.argv[1:]
    del sys.argv[1:]
    sys.path.insert(0, host)
    import comfy.options  # noqa: F401  - must come before cli_args
    from comfy.cli_args import args

    args.cpu, args.base_directory = True, base
    demo_world(Path(base), *names)
