"""Prompts that were saved from the first version of the nodes run on the nodes of today."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factories import write_pictures
from harness.host.runner import GraphFailed, Host, Loaded, Outputs

PROMPTS = Path(__file__).resolve().parents[2] / "workflows" / "prompts"
# What runs on a tiny model in seconds; the inputs that came later stay away.
SMALL: dict[str, dict[str, Any]] = {
    "Pivotal_LoadDataset": {"folder": "first"},
    "Pivotal_TrainConcepts": {"steps": 2, "resolution": 64, "checkpointing": "off"},
    "Pivotal_ConceptReport": {"steps": 1, "width": 64, "height": 64, "cell_size": 64},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "KSampler": {"steps": 1},
}
BASE = {"class_type": "Harness_Checkpoint", "inputs": {"family": "sd15"}}


def saved(path: Path) -> dict[str, Any]:
    """A kept prompt on the tiny model and few pictures."""
    prompt = json.loads(path.read_text(encoding="utf-8"))
    for number, node in prompt.items():
        node["inputs"] |= SMALL.get(node["class_type"], {})
        if node["class_type"] == "CheckpointLoaderSimple":
            prompt[number] = BASE
    return prompt


@pytest.mark.parametrize("path", sorted(PROMPTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_prompt_of_the_first_version_runs(
    path: Path, host: Host, run_graph: Callable[..., Outputs], sd15: Loaded
):
    write_pictures(host.base / "input" / "first", ["a photo of TOK", "TOK on grass"])
    prompt = saved(path)
    results = run_graph(prompt)
    assert results.values.keys() == prompt.keys(), "every node ran"
    (train,) = (n for n, one in prompt.items() if one["class_type"] == "Pivotal_TrainConcepts")
    bundle = results[train, 0]
    assert bundle.names == ["tok"] and bundle.lora


def test_a_prompt_without_an_input_of_the_first_version_is_refused(
    host: Host, run_graph: Callable[..., Outputs], sd15: Loaded
):
    prompt = saved(PROMPTS / "Every part.json")
    (train,) = (one for one in prompt.values() if one["class_type"] == "Pivotal_TrainConcepts")
    del train["inputs"]["norm_pull"]
    with pytest.raises(GraphFailed, match="Required input is missing: norm_pull"):
        run_graph(prompt)
