"""The page and the picture of the learning benchmark."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import replace_text
from PIL import Image, ImageDraw, ImageFont

from world.sampling import FLOW_SCHEDULER, SETTINGS

from .cells import STRIP, Cell, cell_of
from .claims import claims
from .methods import METHODS, differing
from .scores import LEARNED, Row, Rows
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
SIDE, LABEL, GAP = 64, 164, 10
"""Pixels of the picture: a sample, the name of a method, and the space around both."""

INTRODUCTION = """# Learning

What each method learns from {pictures} pictures of a concept in the sprite world ({styled} of a
style), and what that costs the base model. All scores are shares from 0 to 1, counted by the judge
of `tests/world/judge.py` on pictures that ComfyUI's sampler draws ({settings}; {flow} for flow
models):

- **fidelity**: samples that show the concept.
- **following**: samples whose background matches the prompt, and for shapes and styles the color
  and shape as well. Every second background is in no training picture.
- **base_kept**: the base's own held-out prompts, without the concept, that are still drawn
  correctly (1 for the untrained base).
- **missing**: how far the mean fidelity falls short of {learned:g}, from which a concept counts as
  learned.
- **leakage**: samples that show a new thing other than the one asked for.
- **variety**: how much samples of one prompt differ, as the standard deviation of a pixel (not a
  share). A method that memorizes its pictures has little.
- **embedding_alone**: fidelity with the LoRA at strength 0.
- **transfer_bundle**, **transfer_embedding**: fidelity of the whole bundle, and of its embeddings
  alone, on a second base, which is the first one trained further on faded colors.

The training pictures show a concept at every place, except in the parts on adapters and on
optimizers, where the character is at random places. That is harder: a character that was never
seen in the middle is often not drawn there. `color` is a new name for a color that the base can
draw, cyan, learned by an embedding that starts as red.

Each number is the mean over the seeds (lowest to highest). `samples` counts the samples of each
kind over all seeds; the transfer scores use two fifths of them. `seconds` is the time of training
alone, on so many `threads`. Runs on one thread shared the machine with other runs: their times say
which methods are dearer, but not how fast a step is.
"""


def write_report(parts: Mapping[str, Rows], path: Path) -> None:
    """Write the page from the rows of each part."""
    replace_text(path, page(parts))


def page(parts: Mapping[str, Rows]) -> str:
    """The page: a table for every part, then the claims and what the methods are."""
    scene = {"pictures": PICTURES, "styled": STYLE_PICTURES, "learned": LEARNED}
    lines = [INTRODUCTION.format(settings=SETTINGS, flow=FLOW_SCHEDULER, **scene)]
    for title, rows in parts.items():
        lines += section(title, rows)
    every = [row for rows in parts.values() for row in rows]
    lines += ["## The claims of the literature", "", *claims(every), ""]
    lines += ["## The methods", ""]
    plain, used = METHODS["pivotal"], {row["method"] for row in every} - {"pivotal"}
    lines += [f"`pivotal` is `{plain}`; the others differ from it in:", ""]
    lines += [f"- {n}: `{differing(m, plain)}`" for n, m in METHODS.items() if n in used]
    lines += ["", "All of it on the CPU in fp32. `python3 dev.py bench learning` writes this page."]
    lines += ["", "![One row of samples for each method](learning.png)"]
    return "\n".join(lines) + "\n"


def section(title: str, rows: Rows) -> list[str]:
    """The table of one part and, for a set, the table of its concepts."""
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
    for row in rows:
        lines += of_concepts(row) if "concepts" in row else []
    return lines


def mean_of(rows: Rows, name: str) -> float:
    """The mean of a column that all rows have."""
    return sum(row[name] for row in rows) / len(rows)


def of_concepts(row: Row) -> list[str]:
    lines = [
        f"The concepts of `{row['method']}`, seed {row['seed']}:",
        "",
        "| concept | fidelity | following | leakage |",
        "|---|---|---|---|",
    ]
    for concept, scores in row["concepts"].items():
        cells = [f"{scores[name]:.2f}" for name in ("fidelity", "following", "leakage")]
        lines.append(f"| {concept} | " + " | ".join(cells) + " |")
    if row.get("renamed") is not None:
        lines += [
            "",
            f"Fidelity when Load Bundle gives every concept another name: {row['renamed']:.2f}.",
        ]
    return [*lines, ""]


def spread(values: Sequence[float | None], digits: int = 2) -> str:
    """The mean with the lowest and highest value; a dash if the method has no such score."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "-"
    mean, least, most = (
        f"{value:.{digits}f}" for value in (sum(numbers) / len(numbers), min(numbers), max(numbers))
    )
    return mean if len(numbers) == 1 else f"{mean} ({least} to {most})"


def write_picture(rows: Rows, strips: Path, path: Path) -> None:
    """Draw one row of samples for each method, in two columns, from the strips of its cells.

    Without all the strips, which are left in the work folder by the call that ran their cells, the
    picture stays as it is.
    """
    methods = {name: shown_cells(rows, name) for name in dict.fromkeys(r["method"] for r in rows)}
    missing = [c.name for cells in methods.values() for c in cells if not strip(c, strips).exists()]
    if missing:
        sys.stdout.write(f"{path.name} stays as it is: {len(missing)} strips are missing\n")
        return
    down = -(-len(methods) // 2)
    width, height = LABEL + STRIP * SIDE + 2 * GAP, SIDE + GAP
    picture = Image.new("RGB", (2 * width, down * height + GAP), "white")
    for number, (name, cells) in enumerate(methods.items()):
        column, place = divmod(number, down)
        corner = (GAP + column * width, GAP + place * height)
        picture.paste(picture_row(name, cells, strips), corner)
    picture.save(path, optimize=True)


def shown_cells(rows: Rows, method: str) -> list[Cell]:
    """One cell for each subject of a method: the first seed, at the budget nearest to the whole."""
    own = sorted(
        (row for row in rows if row["method"] == method),
        key=lambda row: (abs(row["budget"] - 1), row["seed"]),
    )
    by_subject: dict[str, Cell] = {}
    for row in own:
        by_subject.setdefault(row["subject"], cell_of(row))
    return list(by_subject.values())


def picture_row(name: str, cells: Sequence[Cell], strips: Path) -> Image.Image:
    """The name of a method, its subjects, and samples of all subjects in equal numbers."""
    row = Image.new("RGB", (LABEL + STRIP * SIDE, SIDE), "white")
    pen, large, small = ImageDraw.Draw(row), ImageFont.load_default(14), ImageFont.load_default(12)
    lines = wrapped(name, large)
    pen.multiline_text((0, 2), lines, fill="black", font=large, spacing=3)
    below = 6 + 18 * (1 + lines.count("\n"))
    pen.text((0, below), ", ".join(cell.subject for cell in cells), fill="dimgray", font=small)
    drawn = [Image.open(strip(cell, strips)) for cell in cells]
    for place in range(STRIP):
        left = place * SIDE
        picture = drawn[place * len(cells) // STRIP].crop((left, 0, left + SIDE, SIDE))
        row.paste(picture, (LABEL + left, 0))
    return row


def wrapped(name: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """A name broken at underscores into lines that are narrower than a label."""
    lines = [""]
    for word in name.replace("_", "_ ").split():
        fits = font.getlength(lines[-1] + word) < LABEL - GAP
        lines[-1:] = [lines[-1] + word] if fits else [lines[-1], word]
    return "\n".join(lines)


def strip(cell: Cell, folder: Path) -> Path:
    """The file with a cell's pictures."""
    return folder / f"{cell.name}.png"
