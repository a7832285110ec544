"""The workflow that compares two adapters, as the editor saves it, through the host's executor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nodes
from factories import write_pictures
from harness.host.runner import Loaded
from harness.host.workflow import to_prompt, with_values

ROOT = Path(__file__).resolve().parents[3]
WORKFLOW = ROOT / "example_workflows" / "3 LoRA against TriLoRA.json"
RUN = {"steps": 2, "resolution": 64, "checkpointing": "off"}
RUNS = ("Train with LoRA", "Train with TriLoRA")
SMALL = {
    "Pivotal_LoadDataset": {"folder": "compared"},
    "One grid": {"steps": 1, "width": 64, "height": 64, "cell_size": 64, "seeds": "1"},
    **dict.fromkeys(RUNS, RUN),
}


def described(saved: dict[str, Any]) -> dict[str, Any]:
    """What the host says of the workflow's nodes."""
    kinds = {node["type"] for node in saved["nodes"]} & nodes.NODE_CLASS_MAPPINGS.keys()
    return {kind: {"input": nodes.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()} for kind in kinds}


def test_two_adapters_are_trained_alike_and_drawn_in_one_grid(host, run_graph, sd15: Loaded):
    write_pictures(host.base / "input" / "compared", ["a photo of TOK", "TOK on grass"])
    saved = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    info = described(saved)
    prompt = to_prompt(with_values(saved, info, SMALL), info)
    first, second = (one["inputs"] for one in prompt.values() if one["_meta"]["title"] in RUNS)
    differ = {key for key in first if first[key] != second[key]}
    assert differ == {"adapter", "run_name"}, "all else is equal"
    prompt["1"] |= {"class_type": "Harness_Checkpoint", "inputs": {"family": "sd15"}}
    grid = next(name for name, one in prompt.items() if one["_meta"]["title"] == "One grid")
    keep = {"class_type": "Harness_Keep", "inputs": {"value": [grid, 0]}}
    kept = run_graph({**prompt, "99": keep})[grid, 0]
    assert kept.ndim == 4 and kept.std() > 0
