"""The learning benchmark: its plan, what it says about the literature, its page and picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from learning import cells, claims, methods, plan, report, scores
from PIL import Image

from pack.training.ports import Layer

pytestmark = pytest.mark.host
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def row(method: str, seed: int = 0, **scores: float) -> dict[str, Any]:
    """A row of the character at the budget."""
    return {"subject": "character", "method": method, "seed": seed, "budget": 1.0, **scores}


def sentence(rows: list[dict[str, Any]], words: str) -> str:
    """The claim with these words, or nothing."""
    return next((line for line in claims.claims(rows) if words in line), "")


def test_only_seeds_that_both_methods_have_are_compared():
    rows = [row("pivotal", seed, fidelity=fidelity) for seed, fidelity in ((0, 0.9), (1, 0.1))]
    rows.append(row("pivotal_noise", fidelity=0.5))
    assert "held (fidelity 0.90 against 0.50; 1 seed)" in sentence(rows, "Starting from a word")


def test_a_claim_without_a_shared_seed_is_left_out():
    rows = [row("pivotal", 0, fidelity=0.9), row("pivotal_noise", 1, fidelity=0.5)]
    assert not claims.claims(rows)


def test_transfer_to_another_base_is_compared_with_and_without_an_embedding():
    scores = {"base_kept": 0.0, "fidelity": 1.0}
    rows = [
        row("pivotal", transfer_bundle=0.9, **scores),
        row("lora", transfer_bundle=0.5, **scores),
    ]
    line = sentence(rows, "together with an embedding")
    assert "held (transfer bundle 0.90 against 0.50; 1 seed)" in line


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((0.0, 0.3), "held"),
        ((0.3, 0.01), "held"),
        ((0.01, -0.02), "no difference here"),
        ((-0.3, 0.0), "did not hold"),
        ((0.3, -0.3), "undecided"),
    ],
)
def test_better_in_one_and_worse_in_none_is_better(differences: tuple[float, ...], verdict: str):
    assert claims.verdict(*differences) == verdict


def test_every_planned_cell_has_a_name_of_its_own_a_method_and_a_part_of_the_page():
    planned = plan.plan([])
    assert len({cell.name for cell in planned}) == len(planned)
    assert {cell.method for cell in planned} <= methods.METHODS.keys()
    parts = {plan.part_of(cell) for cell in planned}
    assert {"character", "crew", plan.CHOSEN, plan.HALF_LEARNED, plan.ADAPTERS} <= parts


def test_the_page_names_what_differs_from_pivotal_and_nothing_else():
    found = methods.differing(methods.METHODS["no_weighting"], methods.METHODS["pivotal"])
    assert found == {"objective": {"weighting": "none"}}


@pytest.mark.parametrize("setting", [{"adapter_rate": 9.0}, {"pivot": 0.9}, {"warmup": 3}])
def test_a_row_is_made_anew_when_what_its_method_sets_changes(
    monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any]
):
    cell = cells.Cell(subject="character", method="pivotal", seed=0)
    before = cell.definition(40)
    assert cell.definition(40) == before != cell.definition(100)
    changed = replace(methods.METHODS["pivotal"], **setting)
    monkeypatch.setitem(methods.METHODS, "pivotal", changed)
    assert cell.definition(40) != before


def test_variety_is_the_spread_of_samples_of_one_prompt_and_not_between_prompts():
    asked = [
        scores.Asked(prompt=prompt, concept="robot", background="red") for prompt in ("a", "b", "a")
    ]
    white, gray, black = (torch.full((4, 4, 3), level) for level in (1.0, 0.5, 0.0))
    learned_by_heart = torch.stack([white, black, white])
    assert scores.variety(learned_by_heart, asked) == 0
    assert scores.variety(torch.stack([white, black, gray]), asked) == pytest.approx(0.125**0.5)
    assert scores.variety(learned_by_heart[:2], asked[:2]) is None


def rows_of(kind: str, best: float, high: float = 0.9) -> list[dict[str, Any]]:
    """Rows for all rates of an adapter, one of them better than the others."""
    return [
        {
            "subject": "scattered",
            "method": methods.adapter_name(kind, methods.RANK, rate),
            "seed": 0,
            "budget": 1.0,
            "variety": 0.1,
            **dict.fromkeys(scores.JUDGED, high if rate == best else 0.5),
        }
        for rate in methods.RATES
    ]


def test_nothing_is_compared_before_all_rates_ran():
    planned = plan.adapter_cells(rows_of("lora", 1e-3)[:3])
    assert len(planned) == 4 * 4 and {cell.budget for cell in planned} == {1.0}


def test_the_best_rate_is_compared_over_seeds_budgets_and_ranks():
    rows = rows_of("lora", 1e-3) + rows_of("trilora", 3e-3)
    planned = plan.adapter_cells(rows)
    for kind, rate in (("lora", 1e-3), ("trilora", 3e-3)):
        name = methods.adapter_name(kind, 16, rate)
        of = {(c.budget, c.seed) for c in planned if c.method == name}
        assert of == {(1, 0), (1, 1), (1, 2), (0.2, 0), (0.2, 1), (0.2, 2), (10, 0)}
        ranks = {methods.adapter_name(kind, rank, rate) for rank in (4, 64)}
        assert ranks <= {cell.method for cell in planned}
    assert len({cell.name for cell in planned}) == len(planned)


def test_a_start_of_trilora_is_compared_over_the_seeds_alone():
    planned = plan.adapter_cells(rows_of("trilora_paper", 3e-4))
    name = methods.adapter_name("trilora_paper", 16, 3e-4)
    assert {(c.budget, c.seed) for c in planned if c.method == name} == {(1, 0), (1, 1), (1, 2)}


def test_each_adapter_is_held_against_the_other_at_its_own_best_rate():
    lines = claims.adapter_claims(rows_of("lora", 1e-3) + rows_of("trilora", 3e-3, high=0.7))
    assert len(lines) == 1
    assert "did not hold (fidelity 0.70 against 0.90" in lines[0]
    assert "rates 0.003 and 0.001; 1 seed" in lines[0]
    assert claims.adapter_claims(rows_of("lora", 1e-3)) == []


def test_both_have_the_same_number_of_parameters_but_for_the_diagonal():
    layer = Layer(name="x", shape=(320, 768), weight=lambda: torch.ones(320, 768))
    counts = {
        kind: sum(
            p.numel()
            for p in methods.adapter_of(kind, 16).build(layer, torch.Generator()).parameters()
        )
        for kind in ("lora", "trilora")
    }
    assert counts["trilora"] == counts["lora"] + 16


def committed() -> list[dict[str, Any]]:
    return json.loads((RESULTS / "learning.json").read_text(encoding="utf-8"))


def test_the_committed_rows_are_those_of_the_plan_and_none_would_be_run_again():
    rows = committed()
    done = {cell.name for cell, _ in plan.still_valid(rows, 100)}
    assert done == {cell.name for cell in plan.plan(rows)}
    assert len(done) == len(rows)


def test_the_committed_page_is_made_from_the_committed_rows():
    page = report.page(plan.grouped(committed()))
    assert page == (RESULTS / "learning.md").read_text(encoding="utf-8")


def test_the_committed_picture_fits_a_screen():
    with Image.open(RESULTS / "learning.png") as picture:
        assert picture.width <= 1400 and picture.height <= 2000


def test_a_method_has_one_row_of_samples_shared_by_its_subjects(tmp_path: Path):
    rows = [{"subject": s, "method": "lora", "seed": 0, "budget": 1.0} for s in ("shape", "style")]
    rows.append({"subject": "shape", "method": "lora", "seed": 1, "budget": 1.0})
    shades = {"shape_lora_1_0": 0.0, "style_lora_1_0": 1.0}
    for name, shade in shades.items():
        cells.write_strip(torch.full((8, 64, 64, 3), shade), tmp_path / f"{name}.png")
    report.write_picture(rows, tmp_path, tmp_path / "all.png")
    with Image.open(tmp_path / "all.png") as picture:
        right, middle = report.LABEL + report.GAP, report.GAP + 32
        seen = [picture.getpixel((right + 64 * place + 32, middle)) for place in range(8)]
    assert seen == [(0, 0, 0)] * 4 + [(255, 255, 255)] * 4


def test_the_picture_stays_as_it_is_while_a_strip_is_missing(tmp_path: Path):
    report.write_picture([row("lora")], tmp_path, tmp_path / "all.png")
    assert not list(tmp_path.iterdir())
