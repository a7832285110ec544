"""One cell of the benchmark: a method trained with one seed, scored and kept on the disk."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pack.bundles.containers import Container, save_bundle
from pack.nodes.host.bundling import apply_bundle
from pack.nodes.host.runs import Request, run_training
from pack.training.dataset.folder import read_folder
from world.concepts import write_folder
from world.measure_base import save_grid

from .methods import METHODS, STEPS, adapter_for, concepts_for, config_for, pictures_for
from .scores import score

Models = tuple[Any, Any, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A method and a seed; the file of a cell that is done is not made again."""

    method: str
    seed: int

    @property
    def name(self) -> str:
        """The cell's part of file names."""
        return f"{self.method}_{self.seed}"


def run_cell(cell: Cell, models: Models, folder: Path, number: int) -> dict[str, Any]:
    """Train and score one cell, or read what an earlier call has left in `folder`."""
    done = folder / f"{cell.name}.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    method, (model, clip, vae) = METHODS[cell.method], models
    pictures = folder / f"{cell.name}_pictures"
    write_folder(pictures_for(method, cell.seed), pictures)
    request = Request(
        dataset=read_folder(pictures),
        config=config_for(method, cell.seed),
        concepts=concepts_for(method),
        adapter=adapter_for(method),
        resolution=64,
        checkpointing=False,
        run_name=cell.name,
    )
    started = time.monotonic()
    with torch.inference_mode():
        bundle = run_training(model, clip, vae, request).bundle
        seconds = time.monotonic() - started
        changed, named, _, _ = apply_bundle(model, clip, bundle)
    scores, samples = score((changed, named, vae), method.trigger, number)
    save_grid(samples[:20], folder / f"{cell.name}.png", columns=10)
    path = folder / f"{cell.name}.safetensors"
    path.unlink(missing_ok=True)
    save_bundle(bundle, path, Container.A1111, torch.float16)
    row = {"method": cell.method, "seed": cell.seed, "budget": STEPS, **asdict(scores)}
    row |= {"bytes": path.stat().st_size, "seconds": round(seconds, 1)}
    temporary = done.with_suffix(".part")
    temporary.write_text(json.dumps(row) + "\n", encoding="utf-8")
    temporary.rename(done)
    return row
