"""The table of families and methods, with the message of each method that fails."""

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
"""The end of the names of models with the release's width."""
HEAD = """# Families

`python3 dev.py bench families` writes this page, on ComfyUI {version}, with random weights and cut
text encoders. ComfyUI's own loader detects each network by the keys and shapes of its weights; the
network is about the smallest that the loader accepts. For Chroma, Lumina 2, Z-Image and Qwen-Image
the loader accepts only the release's width. Their tiny networks are therefore created by ComfyUI's
class of that name, and in addition the loader detects a network with one block of the release's
width; on the CPU that one is tried with a single method. The table shows that a method works end to
end, not how well it learns.

"pass" means that, through ComfyUI's own executor, Train Concepts ran two steps; that its result
changes what is sampled; that the saved file, loaded by Load Bundle, samples the same latents bit
for bit, and by ComfyUI's LoraLoader as well if it contains no vectors; and that every weight of the
base stayed bit for bit the same. Millions are the parameters of the network and of its text
encoders. TI trains only vectors, TE LoRA is a LoRA on the network and on the encoders, bundle is a
LoRA with vectors.

"""


def page(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of what families.json holds, with numbered notes for what did not pass."""
    lines = [
        f"| family | class | millions | {' | '.join(METHODS)} |",
        f"|---|---|---|{'---|' * len(METHODS)}",
    ]
    notes: list[str] = []
    for family, row in rows.items():
        cells = []
        for method in METHODS:
            outcome = row["methods"].get(method, "not run")
            if outcome not in ("pass", "not run"):
                notes.append(outcome)
                outcome = f"({len(notes)})"
            cells.append(outcome)
        size = " + ".join(map(str, row["millions"]))
        first = f"{label(family)} | {row['class']} | {size}"
        lines.append(f"| {first} | {' | '.join(cells)} |")
    listed = [f"{number}. {note}" for number, note in enumerate(notes, start=1)]
    tail = ["", *listed] if listed else []
    return HEAD.format(version=__version__) + "\n".join([*lines, *tail]) + "\n"


def label(family: str) -> str:
    name = family.removesuffix(WIDE)
    return LABELS.get(name, name) + (", the release's width" if name != family else "")
