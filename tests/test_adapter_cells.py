"""The plan that compares LoRA and TriLoRA: rates first, then what the best of them can do."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("comfy", reason="needs ComfyUI: set PIVOTAL_COMFYUI")
pytestmark = pytest.mark.host
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
adapters = importlib.import_module("learning.adapters")
adapter_claims = importlib.import_module("learning.adapter_claims")


def rows_of(kind: str, best: float, high: float = 0.9) -> list[dict[str, Any]]:
    """Rows of all rates of a kind, of which one is the best."""
    return [
        {
            "subject": "scattered",
            "method": adapters.method_name(kind, adapters.RANK, rate),
            "seed": 0,
            "budget": 1.0,
            "variety": 0.1,
            **dict.fromkeys(adapters.JUDGED, high if rate == best else 0.5),
        }
        for rate in adapters.RATES
    ]


def test_nothing_is_compared_before_all_rates_ran():
    cells = adapters.adapter_cells(rows_of("lora", 1e-3)[:3])
    assert len(cells) == 4 * 4 and {cell.budget for cell in cells} == {1.0}


def test_the_best_rate_is_compared_over_seeds_budgets_and_ranks():
    rows = rows_of("lora", 1e-3) + rows_of("trilora", 3e-3)
    cells = adapters.adapter_cells(rows)
    for kind, rate in (("lora", 1e-3), ("trilora", 3e-3)):
        name = adapters.method_name(kind, 16, rate)
        of = {(c.budget, c.seed) for c in cells if c.method == name}
        assert of == {(1, 0), (1, 1), (1, 2), (0.2, 0), (0.2, 1), (0.2, 2), (10, 0)}
        ranks = {adapters.method_name(kind, rank, rate) for rank in (4, 64)}
        assert ranks <= {cell.method for cell in cells}
    assert len({cell.name for cell in cells}) == len(cells)


def test_a_start_of_trilora_is_compared_over_the_seeds_alone():
    cells = adapters.adapter_cells(rows_of("trilora_paper", 3e-4))
    name = adapters.method_name("trilora_paper", 16, 3e-4)
    assert {(c.budget, c.seed) for c in cells if c.method == name} == {(1, 0), (1, 1), (1, 2)}


def test_each_adapter_is_held_against_the_other_at_its_own_best_rate():
    told = adapter_claims.adapter_claims(rows_of("lora", 1e-3) + rows_of("trilora", 3e-3, high=0.7))
    assert len(told) == 1
    assert "did not hold (fidelity 0.70 against 0.90" in told[0]
    assert "rates 0.003 and 0.001; 1 seed" in told[0]
    assert adapter_claims.adapter_claims(rows_of("lora", 1e-3)) == []


def test_both_have_the_same_number_of_parameters_but_for_the_diagonal():
    import torch

    from pack.training.ports import Layer

    layer = Layer(name="x", shape=(320, 768), weight=lambda: torch.ones(320, 768))
    counts = {
        kind: sum(
            p.numel()
            for p in adapters.config_of(kind, 16).build(layer, torch.Generator()).parameters()
        )
        for kind in ("lora", "trilora")
    }
    assert counts["trilora"] == counts["lora"] + 16
