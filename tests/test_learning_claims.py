"""What the learning benchmark says of the literature's claims, and how it groups its rows."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("comfy", reason="needs ComfyUI: set PIVOTAL_COMFYUI")
pytestmark = pytest.mark.host
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
claims = importlib.import_module("learning.claims")
cells = importlib.import_module("learning.cells")
plan = importlib.import_module("learning.plan")
methods = importlib.import_module("learning.methods")
scores = importlib.import_module("learning.scores")


def row(method: str, seed: int = 0, **scores: float) -> dict[str, Any]:
    """A row of the character at the budget."""
    return {"subject": "character", "method": method, "seed": seed, "budget": 1.0, **scores}


def sentence(rows: list[dict[str, Any]], words: str) -> str:
    """The claim that begins with the words, or nothing."""
    return next((one for one in claims.claims(rows) if words in one), "")


def test_only_seeds_that_both_methods_have_are_compared():
    rows = [row("pivotal", seed, fidelity=fidelity) for seed, fidelity in ((0, 0.9), (1, 0.1))]
    rows.append(row("pivotal_noise", fidelity=0.5))
    assert "held (fidelity 0.90 against 0.50; 1 seed)" in sentence(rows, "Starting from a word")


def test_a_claim_without_a_shared_seed_is_not_told():
    rows = [row("pivotal", 0, fidelity=0.9), row("pivotal_noise", 1, fidelity=0.5)]
    assert not claims.claims(rows)


def test_what_is_left_on_another_base_is_compared_with_and_without_an_embedding_beside():
    scores = {"base_kept": 0.0, "fidelity": 1.0}
    rows = [
        row("pivotal", transfer_bundle=0.9, **scores),
        row("lora", transfer_bundle=0.5, **scores),
    ]
    told = sentence(rows, "beside an embedding")
    assert "held (transfer bundle 0.90 against 0.50; 1 seed)" in told


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ((0.0, 0.3), "held"),
        ((0.3, 0.01), "held"),
        ((0.01, -0.02), "no difference here"),
        ((-0.3, 0.0), "did not hold"),
        ((0.3, -0.3), "not to be told"),
    ],
)
def test_better_in_one_and_worse_in_none_is_better(differences: tuple[float, ...], said: str):
    assert claims.verdict(*differences) == said


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
