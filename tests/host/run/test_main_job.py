"""The main job in one graph: load a dataset, train a concept, save the bundle, load it, sample."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from factories import write_pictures
from harness.host.graphs import defaults
from harness.host.runner import Host, Loaded, Outputs

TOKS = [f"a picture of TOK number {number}" for number in range(4)]


@pytest.fixture
def dataset(host: Host) -> str:
    """The name of a small dataset in the input folder."""
    write_pictures(host.base / "input" / "toks", TOKS)
    return "toks"


def training_prompt(dataset: str, **settings: object) -> dict:
    """An API prompt that trains TOK with LoRA on the loaded SD1.5 and keeps every output."""
    inputs = {
        "steps": 4, "batch_size": 2, "accumulation": 1, "resolution": 64, "seed": 1,
        "schedule": "constant", "warmup_steps": 0, "checkpointing": "off", "run_name": "tok",
        "max_grad_norm": 1.0, "norm_pull": 0.1, "checkpoint_every": 0,
        "model": ["base", 0], "clip": ["base", 1], "vae": ["base", 2],
        "dataset": ["data", 0], "concepts": ["concept", 0], "adapter": ["lora", 0],
    }  # fmt: skip
    concept = {
        "placeholder": "TOK", "name": "tok", "vectors": 2, "initial": "dog", "class_word": "",
        "pivot": 0.5,
    }  # fmt: skip
    data = {
        "folder": dataset, "caption_extension": ".txt", "default_caption": "", "repeats": 1,
    }  # fmt: skip
    prompt = {
        "base": {"class_type": "Harness_Checkpoint", "inputs": {"family": "sd15"}},
        "data": {"class_type": "Pivotal_LoadDataset", "inputs": data},
        "concept": {"class_type": "Pivotal_Concept", "inputs": concept},
        "lora": {"class_type": "Pivotal_Lora", "inputs": {"rank": 4, "alpha": 4.0}},
        "train": {"class_type": "Pivotal_TrainConcepts", "inputs": {**inputs, **settings}},
        "save": {
            "class_type": "Pivotal_SaveBundle",
            "inputs": {
                "bundle": ["train", 0], "filename_prefix": "loras/tok", "container": "a1111",
                "precision": "fp32",
            },
        },
        "load": {
            "class_type": "Pivotal_LoadBundle",
            "inputs": {
                "model": ["base", 0], "clip": ["base", 1], "file": "(connected bundle)",
                "strength_model": 1.0, "strength_clip": 1.0, "names": "", "bundle": ["save", 0],
            },
        },
        "keep": {"class_type": "Harness_Keep", "inputs": {"value": ["load", 2]}},
        "keep_report": {"class_type": "Harness_Keep", "inputs": {"value": ["train", 5]}},
    }  # fmt: skip
    for node in prompt.values():
        node["inputs"] = {**defaults(node["class_type"]), **node["inputs"]}
    return prompt


def test_a_concept_is_trained_saved_and_loaded_in_one_graph(
    run_graph: Callable[..., Outputs], sd15: Loaded, dataset: str
):
    outputs = run_graph(training_prompt(dataset))
    assert outputs["load", 2] == "embedding:tok"
    assert "4 steps on 4 images" in outputs["train", 5]
    assert len(outputs["train", 4]["loss"]) == 4
