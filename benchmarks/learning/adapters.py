"""LoRA and TriLoRA at equal parameters: the rate of each is chosen first, then they are compared.

A TriLoRA with a diagonal core has a LoRA's numbers and one more a direction, so that equal ranks
are equal parameters but for less than one in six hundred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pack.training.adapters import AdapterConfig
from pack.training.adapters.lora import LoraConfig
from pack.training.adapters.trilora import Sigma, TriLoraConfig

from .cells import Cell
from .methods import LORA, METHODS, Method
from .subjects import SCATTERED

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
RANK, RANKS = 16, (4, 64)
LONG, SHORT = 10.0, 0.2
STARTS: Mapping[str, Sigma] = {
    "trilora": Sigma.SCALED,
    "trilora_paper": Sigma.PAPER,
    "trilora_identity": Sigma.IDENTITY,
}
"""What the middle matrix starts from."""
KINDS = ("lora", *STARTS)
COMPARED = ("lora", "trilora")
"""Compared over budgets and ranks too; all starts are compared over the seeds."""
JUDGED = ("fidelity", "following", "base_kept")
Rows = Sequence[Mapping[str, Any]]


def config_of(kind: str, rank: int) -> AdapterConfig:
    """LoRA or one of the starts of TriLoRA."""
    if kind == "lora":
        return LoraConfig(rank=rank, alpha=rank, targets=LORA.targets)
    return TriLoraConfig(rank=rank, sigma=STARTS[kind], targets=LORA.targets)


def method_name(kind: str, rank: int, rate: float) -> str:
    """The method's name, which says all that differs."""
    return f"{kind}_rank{rank}_rate{rate:g}"


def adapter_methods() -> dict[str, Method]:
    """Pivotal tuning for every kind, rank and rate."""
    return {
        method_name(kind, rank, rate): Method(adapter=config_of(kind, rank), adapter_rate=rate)
        for kind in KINDS
        for rank in (RANK, *RANKS)
        for rate in RATES
    }


METHODS.update(adapter_methods())


def adapter_cells(rows: Rows) -> list[Cell]:
    """The cells for the rates and, of each kind whose rates all have rows, those that compare."""
    cells = [cell for kind in KINDS for cell in _rate_cells(kind)]
    for kind in KINDS:
        rate = chosen_rate(rows, kind)
        if rate is not None:
            cells += _seeds(kind, rate)
            cells += _compared(kind, rate) if kind in COMPARED else []
    return cells


def chosen_rate(rows: Rows, kind: str) -> float | None:
    """The rate with the best mean of fidelity, following and base kept; None before all ran."""
    scores = {
        cell.method: sum(row[name] for name in JUDGED)
        for cell in _rate_cells(kind)
        for row in rows
        if (row["subject"], row["method"], row["seed"], row["budget"])
        == (cell.subject, cell.method, cell.seed, cell.budget)
    }
    if len(scores) < len(RATES):
        return None
    return max(RATES, key=lambda rate: scores[method_name(kind, RANK, rate)])


def _rate_cells(kind: str) -> list[Cell]:
    return [_cell(kind, RANK, rate) for rate in RATES]


def _seeds(kind: str, rate: float) -> list[Cell]:
    """The further seeds at the budget."""
    return [_cell(kind, RANK, rate, seed=seed) for seed in (1, 2)]


def _compared(kind: str, rate: float) -> list[Cell]:
    """Three seeds at a fifth of the budget, the ranks, and one seed ten times as long."""
    short = [_cell(kind, RANK, rate, seed=seed, budget=SHORT) for seed in (0, 1, 2)]
    ranks = [_cell(kind, rank, rate) for rank in RANKS]
    return [*short, *ranks, _cell(kind, RANK, rate, budget=LONG)]


def _cell(kind: str, rank: int, rate: float, *, seed: int = 0, budget: float = 1.0) -> Cell:
    method = method_name(kind, rank, rate)
    return Cell(subject=SCATTERED, method=method, seed=seed, budget=budget)
