"""Run saved workflows as a person does who has a small model and a small folder of pictures.

Standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.host.server import Prompt, Server, ServerFailed, failure
from harness.host.workflow import to_prompt, with_values

TESTS = Path(__file__).resolve().parents[2]
FOLDER = TESTS.parent / "example_workflows"
CHECKPOINT, PICTURES, CREW = "demo_base.safetensors", "demo_creature", "demo_crew"
CAPTIONER = "tiny_florence"
# The nodes that train, by their titles or types.
RUNS = ("Pivotal_TrainConcepts", "Train with LoRA", "Train with TriLoRA")
TRAINED = {"steps": 300, "batch_size": 2, "resolution": 64, "checkpointing": "off"}
Changes = Mapping[str, Mapping[str, Any]]
# What a small model needs in place of what the workflows hold, by the nodes' titles or types.
SMALL: dict[str, dict[str, Any]] = {
    "CheckpointLoaderSimple": {"ckpt_name": CHECKPOINT},
    "Pivotal_LoadDataset": {"folder": PICTURES},
    "Pivotal_Concept": {"initial": "square"},
    "Optimizer of the adapter": {"learning_rate": 0.001},
    "Optimizer of the concept": {"learning_rate": 0.005},
    **{run: TRAINED for run in RUNS},
    "Pivotal_LoadCaptioner": {"model": CAPTIONER},
    "Pivotal_CaptionDataset": {
        "max_tokens": 8,
        "on_existing": "replace",
        "touch_human": True,
        "limit": 2,
    },
    "Prompt without the concept": {"text": "a red square on a cyan background"},
    "Prompt with the concept": {"text": "a embedding:tok on a cyan background"},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "Before": {"cfg": 3.0},
    "After": {"cfg": 3.0},
    "Pictures of all characters": {"folder": CREW},
    "First character": {"initial": "square"},
    "Second character": {"initial": "circle"},
    "Every character": {
        "prompt": "a {name} on a cyan background",
        "without": "a red square on a cyan background",
        "width": 64,
        "height": 64,
        "cell_size": 64,
        "cfg": 3.0,
    },
    "One grid": {
        "prompts": "a {name} on a cyan background",
        "width": 64,
        "height": 64,
        "cell_size": 64,
        "cfg": 3.0,
    },
    "Prompt": {"text": "a embedding:tok and a embedding:heroine on a cyan background"},
    "Sampler": {"cfg": 3.0},
}
# With these the sprite world's base learns a concept, not only something of it: the cells of its
# pictures are what convolutions draw.
LEARNED_RUN = {"steps": 400, "schedule": "cosine"}
LEARNED: dict[str, dict[str, Any]] = {
    **SMALL,
    **{run: {**TRAINED, **LEARNED_RUN} for run in RUNS},
    "Pivotal_Lora": {"targets": "with convolutions"},
    "Pivotal_TriLora": {"targets": "with convolutions"},
    "Optimizer of the adapter": {"learning_rate": 0.002},
}
LIMIT_SECONDS = 1800.0


def short(steps: int) -> dict[str, dict[str, Any]]:
    """SMALL with few steps of training and of sampling."""
    changes = {title: dict(values) for title, values in SMALL.items()}
    for run in RUNS:
        changes[run]["steps"] = steps
    for sampler in ("Before", "After", "Sampler", "Every character", "One grid"):
        changes[sampler]["steps"] = 4
    return changes


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one workflow came to: the losses of its runs, its pictures, and its new files."""

    seconds: float
    losses: dict[str, list[float]]
    pictures: list[str]
    bundles: list[str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def workflows(folder: Path = FOLDER) -> list[Path]:
    """The saved workflows of a folder, in the order of their names."""
    return sorted(folder.glob("*.json"))


def write_world(python: Path, host: Path, base: Path, *captioners: str) -> None:
    """Make the small checkpoint, the folders of pictures and tiny caption models in `base`."""
    words = [str(host), str(base), CHECKPOINT, PICTURES, *captioners]
    command = [str(python), "-m", "harness.tools.demo_world", *words]
    environment = os.environ | {"PYTHONPATH": str(TESTS), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=base, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ServerFailed(f"The small checkpoint could not be made.\n{done.stderr[-2000:]}")


def opened(server: Server, path: Path, changes: Changes) -> tuple[dict[str, Any], Prompt]:
    """A saved workflow with other values, and its prompt as the editor would queue it."""
    nodes = server.object_info()
    workflow = with_values(json.loads(path.read_text(encoding="utf-8")), nodes, changes)
    return workflow, to_prompt(workflow, nodes)


def run(server: Server, path: Path, changes: Changes) -> Result:
    """Queue a saved workflow and wait for its end; ServerFailed with the node's sentence."""
    output = server.base / "output"
    known = files(output)
    workflow, prompt = opened(server, path, changes)
    started = time.monotonic()
    history = server.wait(server.queue(prompt, workflow), LIMIT_SECONDS)
    seconds = time.monotonic() - started
    sentence = failure(history)
    if sentence:
        raise ServerFailed(f"{path.name}: {sentence}")
    new = [name for name in files(output) if name not in known]
    return Result(
        seconds=round(seconds, 1),
        losses={name: losses(output / name) for name in new if name.endswith("report.jsonl")},
        pictures=[name for name in new if name.endswith(".png") and "loss" not in name],
        bundles=[n for n in new if n.endswith(".safetensors") and n.startswith("loras/")],
    )


def files(folder: Path) -> list[str]:
    """Every file below a folder, by its relative path."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def losses(journal: Path) -> list[float]:
    """The loss of each step of a run."""
    lines = journal.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def use_bundle(server: Server, file: str) -> dict[str, Any]:
    """Load a saved bundle by its name in the list, sample one picture; the node's outputs."""
    return server.run(bundle_prompt(file), LIMIT_SECONDS)["outputs"]


def bundle_prompt(file: str) -> Prompt:
    """Load Bundle from a file, the name in a prompt, four steps of sampling."""
    applied = {"file": file, "strength_model": 1.0, "strength_clip": 1.0, "names": ""}
    sampler = {"seed": 1, "steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
    latent = {"width": 64, "height": 64, "batch_size": 1}
    ends = {"positive": ["3", 0], "negative": ["4", 0], "latent_image": ["5", 0]}
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "2": node("Pivotal_LoadBundle", model=["1", 0], clip=["1", 1], **applied),
        "3": node("CLIPTextEncode", clip=["2", 1], text="a embedding:tok on a cyan background"),
        "4": node("CLIPTextEncode", clip=["2", 1], text=""),
        "5": node("EmptyLatentImage", **latent),
        "6": node("KSampler", model=["2", 0], **ends, **sampler, denoise=1.0),
        "7": node("VAEDecode", samples=["6", 0], vae=["1", 2]),
        "8": node("SaveImage", images=["7", 0], filename_prefix="loaded"),
        "9": node("PreviewAny", source=["2", 2]),
    }


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}
