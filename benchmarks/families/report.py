"""The table of families and methods, with the sentence where a method is refused."""

from __future__ import annotations

from collections.abc import Mapping

from comfyui_version import __version__

from harness.trial import METHODS

HEAD = """# Families

Made by `dev.py bench families` on ComfyUI {version}, on tiny random models of each family's own
class: a network of the host and cut text encoders, no released weights. It shows that a method
works end to end, not how well it learns.

"pass" says that, through the host's own executor, Train Concepts ran two steps; that what it gives
samples otherwise than the base; that the saved file, loaded by Load Bundle, samples the same
latents bit for bit, and by the host's LoraLoader too, where no vectors are part of it; and that
every weight of the base is bit for bit what it was.

"""


def table(rows: Mapping[str, Mapping[str, str]]) -> str:
    """Markdown: a row a family, a column a method, and below it what is no pass."""
    lines = [
        f"| family | {' | '.join(METHODS)} |",
        f"|---|{'---|' * len(METHODS)}",
    ]
    notes: list[str] = []
    for family, outcomes in rows.items():
        cells = []
        for method in METHODS:
            said = outcomes.get(method, "not run")
            if said not in ("pass", "not run"):
                notes.append(said)
                said = f"({len(notes)})"
            cells.append(said)
        lines.append(f"| {family} | {' | '.join(cells)} |")
    listed = [f"{number}. {note}" for number, note in enumerate(notes, start=1)]
    tail = ["", *listed] if listed else []
    return HEAD.format(version=__version__) + "\n".join([*lines, *tail]) + "\n"
