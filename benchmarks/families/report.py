"""The table of families and methods, with the sentence where a method is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfyui_version import __version__

from harness.host.trial import METHODS

LABELS = {
    "sd15": "SD1.5",
    "sdxl": "SDXL",
    "sd2": "SD2 (v prediction)",
    "sd3": "SD3",
    "flux": "Flux",
    "chroma": "Chroma",
    "flux2": "Flux.2 Klein",
    "flux2dev": "Flux.2",
    "lumina2": "Lumina 2",
    "zimage": "Z-Image",
    "qwenimage": "Qwen-Image",
}
WIDE = "_released"
"""How the models of the release's width are told from the tiny ones"""
HEAD = """# Families

Made by `dev.py bench families` on ComfyUI {version}, with random weights and cut text encoders. The
host's own loader finds each network by the keys and shapes of its weights, and it is about the
smallest one that it takes. For Chroma, Lumina 2, Z-Image and Qwen-Image the loader takes no other
width than the release's, so the tiny ones are made by the host's class of that name, and one block
of the release's width is found by the loader; on the CPU that is tried with one method. It shows
that a method works end to end, not how well it learns.

"pass" says that, through the host's own executor, Train Concepts ran two steps; that what it gives
samples otherwise than the base; that the saved file, loaded by Load Bundle, samples the same
latents bit for bit, and by the host's LoraLoader too, where no vectors are part of it; and that
every weight of the base is bit for bit what it was. Millions are the numbers in the network and in
its text encoders. TI trains vectors alone, TE LoRA is a LoRA on the network and on the encoders,
bundle is a LoRA with vectors.

"""


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a row a family, a column a method, and below it what is no pass."""
    lines = [
        f"| family | class | millions | {' | '.join(METHODS)} |",
        f"|---|---|---|{'---|' * len(METHODS)}",
    ]
    notes: list[str] = []
    for family, row in rows.items():
        cells = []
        for method in METHODS:
            said = row["methods"].get(method, "not run")
            if said not in ("pass", "not run"):
                notes.append(said)
                said = f"({len(notes)})"
            cells.append(said)
        size = " + ".join(map(str, row["millions"]))
        first = f"{label(family)} | {row['class']} | {size}"
        lines.append(f"| {first} | {' | '.join(cells)} |")
    listed = [f"{number}. {note}" for number, note in enumerate(notes, start=1)]
    tail = ["", *listed] if listed else []
    return HEAD.format(version=__version__) + "\n".join([*lines, *tail]) + "\n"


def label(family: str) -> str:
    """The name of a row."""
    name = family.removesuffix(WIDE)
    return LABELS.get(name, name) + (", the release's width" if name != family else "")
