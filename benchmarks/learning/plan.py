"""Which cells there are, and the run of those that have no row yet."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from atomic import replace_text

from .adapters import adapter_cells
from .bases import load_base, load_flow, load_second
from .cells import Bench, Cell, Row, read_rows, run_cell, write_strip
from .choices import CHOICES, EARLY, choice_cells, early_cells
from .methods import METHODS
from .report import write_report
from .scores import transferred
from .subjects import SCATTERED

COMPARED = (
    "pivotal_prior", "pivotal", "lora", "textual_inversion", "pivotal_noise", "lora_prior",
)  # fmt: skip

IN_TIME = {"pivotal_soon": 3.0, "pivotal_prior": 2.0}
"""Shares of the steps for which two cores are to have time in five minutes, with a prior."""
TIMED = "Pivotal tuning with a prior, five minutes on two cores"
CHOSEN = "Optimizers and objectives"
HALF_LEARNED = "After a quarter of the steps"
ADAPTERS = "LoRA and TriLoRA"


def plan(rows: Sequence[Row]) -> list[Cell]:
    """All cells, the most telling first, so that a run that is stopped has those.

    Rows of earlier cells choose the rates of later ones.
    """
    timed = [
        Cell(subject="character", method=method, seed=seed, budget=budget)
        for method, budget in IN_TIME.items()
        for seed in (0, 1, 2)
    ]
    first = [Cell(subject="character", method=method, seed=0) for method in COMPARED]
    sets = [Cell(subject="crew", method="set", seed=0)]
    others = [
        Cell(subject=subject, method=method, seed=0)
        for subject in ("shape", "style")
        for method in COMPARED[:4]
    ]
    seeds = [
        Cell(subject="character", method=method, seed=seed)
        for seed in (1, 2)
        for method in COMPARED
    ]
    named = [
        Cell(subject="color", method=method, seed=seed)
        for seed in (0, 1, 2)
        for method in COMPARED[1:4]
    ]
    compared = [*timed, *first, *sets, *others, *seeds, *named, *early_cells()]
    return [*compared, *adapter_cells(rows), *choice_cells()]


def growing(make: Callable[[], list[Cell]]) -> Iterator[Cell]:
    """Every cell of a list that may get new ones while it is gone through."""
    seen: set[str] = set()
    while fresh := [cell for cell in make() if cell.name not in seen]:
        seen.add(fresh[0].name)
        yield fresh[0]


def run_plan(work: Path, results: Path, *, samples: int, only: str, minutes: float) -> None:
    """Run what has no row yet, and write rows, table and pictures after every cell."""
    path, strips = results / "learning.json", results / "learning"
    strips.mkdir(parents=True, exist_ok=True)
    rows = {cell.name: row for cell, row in still_true(read_rows(path), samples)}
    began = time.monotonic()
    for cell in growing(lambda: plan(list(rows.values()))):
        due = only in cell.name and time.monotonic() - began < 60 * minutes
        if cell.name in rows or not due:
            continue
        rows[cell.name], pictures = run_cell(cell, bench_of(cell, work, samples))
        write_strip(pictures, strips / f"{cell.name}.png")
        keep(rows, path)
        sys.stdout.write(f"{cell.name}: {rows[cell.name]}\n")
        sys.stdout.flush()
    keep(rows, path)
    write_report(grouped(in_order(rows)), results)


def bench_of(cell: Cell, work: Path, samples: int) -> Bench:
    """What the cell works with; only the compared methods are carried to the second base."""
    base = load_flow(work) if METHODS[cell.method].flow else load_base(work)
    second = load_second(work) if is_compared(cell) else None
    return Bench(base=base, second=second, work=work, samples=samples_of(cell, samples))


def keep(rows: Mapping[str, Row], path: Path) -> None:
    """Write the rows as they are now."""
    replace_text(path, json.dumps(in_order(rows), indent=1) + "\n")


def is_compared(cell: Cell) -> bool:
    """Whether the cell is of the comparison of methods, rather than of what one is made of."""
    return cell.method in COMPARED and cell.budget == 1


def is_timed(cell: Cell) -> bool:
    """Whether the cell is to be learned in five minutes."""
    return cell.budget == IN_TIME.get(cell.method)


def samples_of(cell: Cell, samples: int) -> int:
    """All for the cells that are held against a bar; fewer for those that repeat or compare."""
    held = is_timed(cell) or cell.subject == "crew"
    return samples if held else transferred(samples)


def in_order(rows: Mapping[str, Row]) -> list[Row]:
    """The rows of planned cells in the plan's order."""
    return [rows[cell.name] for cell in plan(list(rows.values())) if cell.name in rows]


def grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by the part of the page that they belong to."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(part_of(cell_of(row)), []).append(row)
    return parts


def part_of(cell: Cell) -> str:
    """The title of the part of the page with the cell."""
    if is_compared(cell):
        return cell.subject
    if is_timed(cell):
        return TIMED
    if cell.budget == EARLY:
        return HALF_LEARNED
    if cell.subject != SCATTERED:
        return cell.subject
    return CHOSEN if cell.method in CHOICES else ADAPTERS


def cell_of(row: Row) -> Cell:
    """The cell that a row is of."""
    return Cell(**{name: row[name] for name in ("subject", "method", "seed", "budget")})


def still_true(rows: Sequence[Row], samples: int) -> Iterator[tuple[Cell, Row]]:
    """The rows of earlier calls that were made as their cells are made today."""
    for row in rows:
        cell = cell_of(row)
        if cell.method not in METHODS:
            continue
        if row["definition"] == cell.definition(samples_of(cell, samples)):
            yield cell, row
