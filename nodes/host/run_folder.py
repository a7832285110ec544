"""The folder of a run: what it is, its checkpoint, its journal; the same graph finds it again."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from PIL.Image import Image
from safetensors import SafetensorError

from ...bundles.containers import Container, save_bundle
from ...bundles.manifest import Bundle
from ...training.state import RunState, load_state, save_state
from .folders import RUNS, checked_run_name

LOG = logging.getLogger(__name__)
IDENTITY, CHECKPOINT, JOURNAL = "run.json", "checkpoint.safetensors", "report.jsonl"
SAMPLED_NUMBERS = 64


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder output/pivotal/<name> that belongs to one run."""

    path: Path
    identity: str
    """What the run is, as JSON text"""

    def create(self) -> None:
        """Make the folder, marked as this run's, unless it is there."""
        self.path.mkdir(parents=True, exist_ok=True)
        replace_text(self.path / IDENTITY, self.identity)

    @property
    def bundle(self) -> Path:
        """The result, there once the run is finished."""
        return self.path / "bundle.safetensors"

    @property
    def report(self) -> Path:
        """What the run did, as text."""
        return self.path / "report.txt"

    @property
    def checkpoint(self) -> Path:
        """The latest state of the run."""
        return self.path / CHECKPOINT

    @property
    def journal(self) -> Path:
        """A line a report."""
        return self.path / JOURNAL

    def load(self) -> RunState | None:
        """The state to continue from; None for a run that has kept none."""
        return load_state(self.checkpoint) if self.checkpoint.exists() else None

    def save(self, state: RunState) -> None:
        """Keep a state; a disk that refuses is one sentence in the log, and the run goes on."""
        try:
            save_state(self.checkpoint, state)
        except (OSError, SafetensorError) as error:
            LOG.warning(
                "The checkpoint of step %d could not be written to %s (%s): "
                "make room or access there; training goes on without it.",
                state.step,
                self.checkpoint,
                error,
            )

    def finish(self, bundle: Bundle, report: str, plot: Image) -> None:
        """Leave the result; the bundle comes last, since it marks the run as finished."""
        replace_text(self.report, report + "\n")
        plot.save(self.path / "loss.png")
        save_bundle(bundle, self.bundle, Container.A1111, torch.float32)


def read_lines(journal: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal; one that is being written, or was cut off, is left out."""
    try:
        text = journal.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1]]


def replace_text(path: Path, text: str) -> None:
    """Write a text file in place of the one at `path`, atomically."""
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def find_run_folder(name: str, identity: Mapping[str, Any]) -> RunFolder:
    """The folder of the run with this name and identity, or a free name for it.

    Another run under the same name makes it <name>_2, <name>_3, ...
    """
    root = Path(folder_paths.get_output_directory(), RUNS)
    base, text = checked_run_name(name), json.dumps(identity, indent=1, sort_keys=True)
    for number in itertools.count(1):
        path = root / (base if number == 1 else f"{base}_{number}")
        if not path.exists() or _identity(path) == text:
            return RunFolder(path, text)
    raise AssertionError("unreachable")


def _identity(path: Path) -> str:
    try:
        return (path / IDENTITY).read_text(encoding="utf-8")
    except OSError:
        return ""


def model_digest(model: ModelPatcher) -> str:
    """Which weights a MODEL holds: a digest over names, shapes and some numbers of each tensor.

    Some numbers, because reading all of a large model takes longer than a step; patches on the
    model count by their strengths. The host gives the weights without the patches of whichever
    clone it happens to have loaded.
    """
    digest = hashlib.sha256()
    for name, (original, *_) in sorted(model.get_key_patches().items()):
        tensor = original[0]
        numbers = tensor.detach().flatten()[:SAMPLED_NUMBERS].float().cpu().tolist()
        digest.update(repr((name, tuple(tensor.shape), numbers)).encode())
    for name, patches in sorted(model.patches.items()):
        digest.update(repr((name, len(patches), [patch[0] for patch in patches])).encode())
    return digest.hexdigest()[:16]
