"""Prompts for the editor: widgets that are not given keep their defaults there."""

from __future__ import annotations

from typing import Any

Prompt = dict[str, dict[str, Any]]
PICTURES = "browser"
TOKS = ["a TOK", "TOK on grass", "TOK at night"]


def training(run_name: str, **settings: Any) -> Prompt:
    """Load a checkpoint, learn TOK with LoRA from small pictures, show the report."""
    base = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2]}
    own = {"steps": 100_000, "resolution": 64, "checkpointing": "off", "run_name": run_name}
    parts = {"dataset": ["2", 0], "concepts": ["3", 0], "adapter": ["4", 0]}
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name="sd15.safetensors"),
        "2": node("Pivotal_LoadDataset", folder=PICTURES),
        "3": node("Pivotal_Concept", placeholder="TOK", name="tok", initial="dog"),
        "4": node("Pivotal_Lora", rank=2, alpha=2.0),
        "5": node("Pivotal_TrainConcepts", **base, **own, **parts, **settings),
        "6": node("PreviewAny", source=["5", 5]),
    }


def watched(run_name: str) -> Prompt:
    """The same with previews and validation."""
    prompt = training(run_name, previews=["7", 0], validation=["8", 0])
    drawn = {"prompts": "a photo of TOK", "every": 5, "time_share": 1.0, "seeds": "1", "steps": 2}
    prompt["7"] = node("Pivotal_Previews", **drawn, width=64, height=64, without=True)
    prompt["8"] = node("Pivotal_Validation", every=5, draws=1, hold_out=1)
    return prompt


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}
