"""The table and the picture grid of the learning benchmark."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from world.sampling import FLOW_SCHEDULER, SETTINGS

from .adapter_claims import adapter_claims
from .choices import LEARNED
from .claims import claims
from .methods import METHODS, differing
from .subjects import PICTURES, STYLE_PICTURES

COLUMNS = (
    "fidelity",
    "following",
    "base_kept",
    "leakage",
    "variety",
    "embedding_alone",
    "transfer_bundle",
    "transfer_embedding",
)
DIGITS = {"variety": 3}
LABEL_WIDTH = 300
Rows = Sequence[dict[str, Any]]

INTRODUCTION = """# Learning

What each method learns from {pictures} pictures of a concept in the sprite world ({styled} of a
style), and what it costs. All numbers are shares from 0 to 1, counted by the judge of
`tests/world/judge.py` on pictures that the host's sampler draws ({settings}; {flow} for flows):

- **fidelity**: samples that show the concept; **following**: samples with the background, and for
  shape and style the color and shape, that the prompt asks for (every second background was in no
  training picture).
- **base_kept**: the base's own held-out prompts, without the concept, that are still drawn right
  (the untrained base: 1).
- **missing**: what the mean fidelity falls short of {learned:g}, from which on a concept counts as
  learned.
- **leakage**: samples that show another new thing than the one asked for.
- **variety**: how much samples of one prompt differ, as the standard deviation of a pixel (no
  share); what is learned by heart has little.
- **embedding_alone**: fidelity with the LoRA at strength 0.
- **transfer_bundle**, **transfer_embedding**: fidelity on a second base, made by training the
  first on faded colors: of the whole bundle, and of its embeddings alone.

A concept is seen at every place, but in the parts on adapters and on optimizers, where the
character is at places by chance: that is harder, for what was never seen in the middle is often not
drawn there. `color` is a name for one that the base can draw, cyan, by an embedding that begins as
red.

Mean of the seeds (least to most). `samples` is how many were drawn of each kind for all seeds
together; of a transfer two fifths of them.
`seconds` is the training alone, by so many `threads`; those of one thread shared the machine with
other runs, so that they say which methods are dearer and not how fast a step is.
"""


def write_report(parts: Mapping[str, Rows], folder: Path) -> None:
    """Write learning.md and learning.png from the rows of each part and the strips of pictures."""
    told = {"pictures": PICTURES, "styled": STYLE_PICTURES, "learned": LEARNED}
    lines = [INTRODUCTION.format(settings=SETTINGS, flow=FLOW_SCHEDULER, **told)]
    for title, rows in parts.items():
        lines += section(title, rows)
    every = [row for rows in parts.values() for row in rows]
    lines += ["## The claims of the literature", "", *claims(every), *adapter_claims(every), ""]
    lines += ["## The methods", ""]
    plain, used = METHODS["pivotal"], {row["method"] for row in every} - {"pivotal"}
    lines += [f"`pivotal` is `{plain}`; the others differ from it in:", ""]
    lines += [f"- {n}: `{differing(m, plain)}`" for n, m in METHODS.items() if n in used]
    lines += ["", f"Python {platform.python_version()}, {platform.machine()}, CPU, fp32."]
    lines += ["Made by `python3 dev.py bench learning`; ![samples](learning.png)"]
    (folder / "learning.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_grid(every, folder)


def section(title: str, rows: Rows) -> list[str]:
    """The table of one part, and for a set the scores of each concept."""
    columns = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    names = [*columns, "missing", "bytes", "seconds", "threads"]
    lines = [
        f"## {title}",
        "",
        "| method | steps | seeds | samples | " + " | ".join(names) + " |",
        "|" + "---|" * (len(names) + 4),
    ]
    for method, steps in dict.fromkeys((row["method"], row["steps"]) for row in rows):
        same = [row for row in rows if (row["method"], row["steps"]) == (method, steps)]
        cells = [spread([row.get(name) for row in same], DIGITS.get(name, 2)) for name in columns]
        cells += [f"{max(0.0, LEARNED - mean_of(same, 'fidelity')):.2f}"]
        cells += [f"{mean_of(same, name):.0f}" for name in ("bytes", "seconds")]
        cells += [" or ".join(str(n) for n in sorted({row["threads"] for row in same}))]
        drawn = sum(row["samples"] for row in same)
        lines.append(f"| {method} | {steps} | {len(same)} | {drawn} | " + " | ".join(cells) + " |")
    lines.append("")
    for row in (row for row in rows if "concepts" in row):
        lines += of_concepts(row)
    return lines


def mean_of(rows: Rows, name: str) -> float:
    """The mean of a column that every row has."""
    return sum(row[name] for row in rows) / len(rows)


def of_concepts(row: dict[str, Any]) -> list[str]:
    """The table of a set's concepts."""
    lines = [
        f"Of {row['method']}, seed {row['seed']}:",
        "",
        "| concept | fidelity | following | leakage |",
        "|---|---|---|---|",
    ]
    for concept, scores in row["concepts"].items():
        cells = [f"{scores[name]:.2f}" for name in ("fidelity", "following", "leakage")]
        lines.append(f"| {concept} | " + " | ".join(cells) + " |")
    if row.get("renamed") is not None:
        lines += ["", f"Fidelity with every name changed while loading: {row['renamed']:.2f}."]
    return [*lines, ""]


def spread(values: Sequence[float | None], digits: int = 2) -> str:
    """Mean and, of several, the least and the most; a dash for what a method does not have."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean, least, most = (
        f"{one:.{digits}f}" for one in (sum(known) / len(known), min(known), max(known))
    )
    return mean if len(known) == 1 else f"{mean} ({least} to {most})"


def write_grid(rows: Rows, folder: Path) -> None:
    """Every cell's strip of pictures under each other, with its name."""
    strips = [
        (row, folder / "learning" / strip_name(row))
        for row in rows
        if (folder / "learning" / strip_name(row)).exists()
    ]
    if not strips:
        return
    pictures = [(row, Image.open(path).convert("RGB")) for row, path in strips]
    height = sum(picture.height + 4 for _, picture in pictures)
    grid = Image.new("RGB", (LABEL_WIDTH + pictures[0][1].width, height), "white")
    pen, font, top = ImageDraw.Draw(grid), ImageFont.load_default(14), 0
    for row, picture in pictures:
        label = f"{row['subject']}, {row['method']}\n{row['steps']} steps, seed {row['seed']}"
        pen.multiline_text((6, top + 14), label, fill="black", font=font)
        grid.paste(picture, (LABEL_WIDTH, top))
        top += picture.height + 4
    grid.save(folder / "learning.png", optimize=True)


def strip_name(row: dict[str, Any]) -> str:
    """The file of a row's pictures."""
    return f"{row['subject']}_{row['method']}_{row['budget']:g}_{row['seed']}.png"
