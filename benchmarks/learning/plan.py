"""Which cells there are, and the run of those that have no row yet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from common import read_json, write_json

from pack.training.words.outputs import OUTPUT_RATE

from .bases import load_base, load_flow, load_second
from .cells import EARLY, LONG, SHORT, Bench, Cell, cell_of, run_cell, write_strip
from .methods import (
    CHOICES,
    KINDS,
    METHODS,
    NEGATIVES,
    OTHER_RANKS,
    OUTPUTS,
    RANK,
    RATES,
    adapter_name,
    output_name,
)
from .report import strip, write_picture, write_report
from .scores import Row, Rows, best_rate, transferred
from .subjects import SCATTERED

COMPARED = (
    "pivotal_prior", "pivotal", "lora", "textual_inversion", "pivotal_noise", "lora_prior",
)  # fmt: skip
COMPARED_EARLY = ("pivotal", "lora", "pivotal_noise", *NEGATIVES)
COMPARED_ADAPTERS = ("lora", "trilora")
"""Compared over budgets and ranks as well; the other starts of TriLoRA over the seeds alone."""
IN_TIME = {"pivotal_soon": 3.0, "pivotal_prior": 2.0}
"""Method -> the budget that two cores are meant to train, with a prior, in five minutes."""
SEEDS = (0, 1, 2)

TIMED = "Pivotal tuning with a prior, five minutes on two cores"
CHOSEN = "Optimizers and objectives"
HALF_LEARNED = "After a quarter of the steps"
ADAPTERS = "LoRA and TriLoRA"


def plan(rows: Rows) -> list[Cell]:
    """All cells, the most informative first, so that a run that is cut short has those.

    The rows of earlier cells choose the rates of later ones.
    """
    return [
        *_cells("character", IN_TIME, SEEDS, IN_TIME),
        *_cells("character", COMPARED),
        *_cells("crew", ("set",)),
        *_cells("shape", COMPARED[:4]),
        *_cells("style", COMPARED[:4]),
        *(cell for seed in SEEDS[1:] for cell in _cells("character", COMPARED, (seed,))),
        *(cell for seed in SEEDS for cell in _cells("color", COMPARED[1:4], (seed,))),
        *_cells("color", OUTPUTS),
        *_cells("color", [output_name(OUTPUT_RATE)], SEEDS[1:]),
        *_cells("character", COMPARED_EARLY, SEEDS, dict.fromkeys(COMPARED_EARLY, EARLY)),
        *adapter_cells(rows),
        *_cells(SCATTERED, CHOICES),
        # On all seeds, since it was seen to matter.
        *_cells(SCATTERED, ("no_weighting",), SEEDS[1:]),
    ]


def _cells(
    subject: str,
    methods: Iterable[str],
    seeds: Sequence[int] = (0,),
    budgets: Mapping[str, float] | None = None,
) -> list[Cell]:
    """A cell for every method and seed, at the whole budget unless another is given."""
    return [
        Cell(subject=subject, method=name, seed=seed, budget=(budgets or {}).get(name, 1.0))
        for name in methods
        for seed in seeds
    ]


def adapter_cells(rows: Rows) -> list[Cell]:
    """Cells that find each adapter's rate, and then those that compare the adapters at it."""
    cells = [
        cell
        for kind in KINDS
        for cell in _cells(SCATTERED, [adapter_name(kind, RANK, rate) for rate in RATES])
    ]
    for kind in KINDS:
        rate = best_rate(rows, kind)
        if rate is not None:
            cells += _comparing(kind, rate)
    return cells


def _comparing(kind: str, rate: float) -> list[Cell]:
    """The other seeds and, of the two main adapters, other budgets and ranks."""
    name = adapter_name(kind, RANK, rate)
    cells = _cells(SCATTERED, (name,), SEEDS[1:])
    if kind in COMPARED_ADAPTERS:
        cells += _cells(SCATTERED, (name,), SEEDS, {name: SHORT})
        cells += _cells(SCATTERED, [adapter_name(kind, rank, rate) for rank in OTHER_RANKS])
        cells += _cells(SCATTERED, (name,), budgets={name: LONG})
    return cells


def growing(make: Callable[[], list[Cell]]) -> Iterator[Cell]:
    """Every cell of a list that may gain cells while it is iterated."""
    seen: set[str] = set()
    while fresh := [cell for cell in make() if cell.name not in seen]:
        seen.add(fresh[0].name)
        yield fresh[0]


def run_plan(work: Path, results: Path, *, samples: int, only: str, minutes: float) -> None:
    """Run the cells that have no row yet, then write the page and the picture."""
    path, strips = results / "learning.json", work / "strips"
    strips.mkdir(exist_ok=True)
    rows = {cell.name: row for cell, row in still_valid(read_json(path, []), samples)}
    began = time.monotonic()
    for cell in growing(lambda: plan(list(rows.values()))):
        due = only in cell.name and time.monotonic() - began < 60 * minutes
        if cell.name in rows or not due:
            continue
        rows[cell.name], pictures = run_cell(cell, bench_of(cell, work, samples))
        write_strip(pictures, strip(cell, strips))
        save(rows, path)
        sys.stdout.write(f"{cell.name}: {rows[cell.name]}\n")
        sys.stdout.flush()
    save(rows, path)
    write_report(grouped(in_order(rows)), results / "learning.md")
    write_picture(in_order(rows), strips, results / "learning.png")


def bench_of(cell: Cell, work: Path, samples: int) -> Bench:
    """The models for a cell; only the compared methods are tried on the second base."""
    base = load_flow(work) if METHODS[cell.method].flow else load_base(work)
    second = load_second(work) if is_compared(cell) else None
    return Bench(base=base, second=second, work=work, samples=samples_of(cell, samples))


def save(rows: Mapping[str, Row], path: Path) -> None:
    write_json(path, in_order(rows))


def is_compared(cell: Cell) -> bool:
    """Whether the cell compares whole methods, rather than the choices within one."""
    return cell.method in COMPARED and cell.budget == 1


def is_timed(cell: Cell) -> bool:
    """Whether the cell is meant to be learned in five minutes."""
    return cell.budget == IN_TIME.get(cell.method)


def samples_of(cell: Cell, samples: int) -> int:
    """All samples for cells that a bar is set for; fewer for those that repeat or compare."""
    has_bar = is_timed(cell) or cell.subject == "crew"
    return samples if has_bar else transferred(samples)


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
    """The title of the part of the page that shows the cell."""
    if is_compared(cell):
        return cell.subject
    if is_timed(cell):
        return TIMED
    if cell.budget == EARLY:
        return HALF_LEARNED
    if cell.subject != SCATTERED:
        return cell.subject
    return CHOSEN if cell.method in CHOICES else ADAPTERS


def still_valid(rows: Sequence[Row], samples: int) -> Iterator[tuple[Cell, Row]]:
    """The rows of earlier calls whose cells would be run in the same way today."""
    for row in rows:
        cell = cell_of(row)
        if cell.method not in METHODS:
            continue
        if row["definition"] == cell.definition(samples_of(cell, samples)):
            yield cell, row
