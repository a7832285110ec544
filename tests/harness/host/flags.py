"""A run on a real server with a command line flag of ComfyUI: is it found, and is it the same?"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from factories import CAPTIONS, write_pictures
from harness.faults.cancelling import ROOT
from harness.host.checkpoints import cached_checkpoint, place
from harness.host.server import Prompt, Server, ServerFailed
from harness.tools.environment import PACK, link
from pack.training.state import load_state
from world import checkpoints

FLAGS = (
    "",
    "--cache-none", "--cache-lru 3", "--cache-classic", "--cache-ram 4", "--high-ram",
    "--disable-smart-memory", "--disable-mmap", "--mmap-torch-files", "--disable-dynamic-vram",
    "--deterministic", "--fast", "--use-split-cross-attention", "--use-quad-cross-attention",
    "--use-pytorch-cross-attention", "--force-upcast-attention", "--dont-upcast-attention",
    "--force-channels-last", "--reserve-vram 1", "--disable-async-offload",
    "--force-non-blocking", "--disable-pinned-memory", "--disable-xformers", "--cpu-vae",
    "--force-fp32", "--force-fp16", "--fp32-unet", "--fp64-unet", "--bf16-unet", "--fp16-unet",
    "--fp8_e4m3fn-unet", "--fp8_e5m2-unet", "--fp16-vae", "--fp32-vae", "--bf16-vae",
    "--fp8_e4m3fn-text-enc", "--fp8_e5m2-text-enc", "--fp16-text-enc", "--fp32-text-enc",
    "--bf16-text-enc", "--fp16-intermediates", "--preview-method latent2rgb",
    "--disable-metadata", "--multi-user",
)  # fmt: skip
"""Those that change how a CPU loads, keeps or computes models; "" is ComfyUI without any."""
FIRST, MORE, TIMEOUT = 2, 4, 300
FOLDER, CHECKPOINTS = "flags", {"sd15": 0, "sd15_other": 1}
MEMORY = Path(__file__).parents[1] / "faults" / "used_memory.py"


def furnish(base: Path) -> None:
    """The folders of a server: the pack, two checkpoints, images, and a node of the tests."""
    for name, seed in CHECKPOINTS.items():
        made = cached_checkpoint(name, partial(checkpoints.build_sd15, seed=seed))
        place(made, base / "models" / "checkpoints" / f"{name}.safetensors")
    link(ROOT, base / "custom_nodes" / PACK)
    shutil.copyfile(MEMORY, base / "custom_nodes" / "harness_used_memory.py")
    write_pictures(base / "input" / FOLDER, CAPTIONS)


def try_flag(python: Path, host: Path, base: Path, flag: str) -> dict[str, Any]:
    """Train, train on another checkpoint, and train the first one on; and once without a break."""
    shutil.rmtree(base / "output", ignore_errors=True)
    try:
        with Server(python, host, base, ["--cpu", *flag.split()]) as server:
            for serial, (name, checkpoint, steps) in enumerate(
                [
                    ("run", "sd15", FIRST),
                    ("other", "sd15_other", 1),
                    ("run", "sd15", MORE),
                    ("whole", "sd15", MORE),
                ]
            ):
                if not serial:
                    server.run({"1": node("Harness_UseMemory", serial=0)}, TIMEOUT)
                server.run(training(server, name, checkpoint, steps), TIMEOUT)
    except ServerFailed as failed:
        return {"flag": flag, "problem": str(failed).strip().splitlines()[0][:300]}
    runs = base / "output" / "pivotal"
    losses = {name: losses_of(runs / name) for name in ("run", "whole")}
    return {
        "flag": flag,
        "found_again": not (runs / "run_2").exists() and len(losses["run"]) == MORE,
        "losses_equal": losses["run"] == losses["whole"],
        "losses": losses["run"],
    }


def losses_of(run: Path) -> list[float]:
    """The losses in the last checkpoint of a run."""
    return list(load_state(max((run / "checkpoints").iterdir())).losses)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def training(server: Server, name: str, checkpoint: str, steps: int) -> Prompt:
    """Words and a LoRA, which train together."""
    base = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2]}
    own = {"steps": steps, "resolution": 64, "checkpointing": "off", "run_name": name}
    parts = {"dataset": ["2", 0], "concepts": ["3", 0], "adapter": ["4", 0]}
    prompt = {
        "1": node("CheckpointLoaderSimple", ckpt_name=f"{checkpoint}.safetensors"),
        "2": node("Pivotal_LoadDataset", folder=FOLDER),
        "3": node("Pivotal_Concept", placeholder="TOK", name="tok", initial="dog"),
        "4": node("Pivotal_Lora", rank=2),
        "5": node("Pivotal_TrainConcepts", **base, **own, **parts),
        "6": node("PreviewAny", source=["5", 5]),
    }
    return filled(server, prompt)


def filled(server: Server, prompt: Prompt) -> Prompt:
    """With the defaults of required widgets, as the editor fills them."""
    info = server.object_info()
    for one in prompt.values():
        required = info[one["class_type"]]["input"].get("required", {})
        for name, (kind, *options) in required.items():
            settings = options[0] if options else {}
            choices = kind if isinstance(kind, list) else settings.get("options", [])
            default = settings.get("default", choices[0] if choices else None)
            if default is not None:
                one["inputs"].setdefault(name, default)
    return prompt
