"""The folder of a run, with its identity, checkpoints and journal; the same graph finds it."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import folder_paths
from PIL.Image import Image
from torch import Tensor

from ....bundles.bundle import Bundle
from ....bundles.files.atomic import replace_text
from ....bundles.files.foreign import read_object
from ....bundles.files.journal import Journal
from ....bundles.files.safetensors import replace_safetensors
from ....bundles.privacy import Metadata, without_private
from ....bundles.save import replace_bundle
from ....training.state import RunState, load_state, save_state
from ..disk import Disk, below_output, discard
from ..folders import RUNS, checked_run_name, keeps_metadata
from ..images import save_picture
from ..users import current_user
from .identity import Identity

LOG = logging.getLogger(__name__)
IDENTITY, PROGRESS, JOURNAL = "run.json", "progress.json", "report.jsonl"
STEP_FILE = re.compile(r"step_(\d{8})\.safetensors")
# Our drafts, those of earlier versions, and what the safetensors library leaves when killed.
DRAFT = re.compile(r"\.pivotal-.*|.*\.part|\.tmp[A-Za-z0-9]{6}")
PLAN = "plan.json"
LONGEST_LINE = 1024**2
"""Bytes of a report; the longest have some thousand numbers and words"""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder output/pivotal/<name> that belongs to one run."""

    path: Path
    identity: str
    """The recipe and the models' digests, as JSON text"""
    disk: Disk = field(default_factory=Disk)
    notes: tuple[str, ...] = ()
    """What could not be compared when the folder was found, for the report"""

    def create(self) -> None:
        """Create the folder and mark it as this run's, unless that has been done."""
        place = self.path / IDENTITY
        if not place.exists():
            self.disk.write("The run", place, replace_text, self.identity)

    @property
    def bundle(self) -> Path:
        """The result of a finished run."""
        return self.path / "bundle.safetensors"

    @property
    def report(self) -> Path:
        """The summary that Train Concepts returns."""
        return self.path / "report.txt"

    @property
    def plan(self) -> Path:
        """How the run's steps are divided so that they fit into memory."""
        return self.path / PLAN

    @property
    def journal(self) -> Journal:
        """One line for each report."""
        return Journal(self.path / JOURNAL, longest=LONGEST_LINE)

    def reports(self) -> Iterator[dict[str, Any]]:
        """The reports, the oldest first; a line without a step is not a report."""
        for line in self.journal.entries():
            if is_count(line.get("step")):
                yield line

    @property
    def previews(self) -> Path:
        """The folder of preview pictures."""
        return self.path / "previews"

    def checkpoint(self, step: int) -> Path:
        """The file of the state after a step."""
        return self.path / "checkpoints" / f"step_{step:08}.safetensors"

    def bundle_at(self, step: int) -> Path:
        """The file of the bundle after a step."""
        return self.path / "bundles" / f"step_{step:08}.safetensors"

    def saved_steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        return step_files(self.path / "checkpoints")

    def load(self) -> RunState | None:
        """The latest state that can be read; None for a run that has saved none."""
        for step in reversed(self.saved_steps()):
            try:
                return load_state(self.checkpoint(step))
            except ValueError as error:
                LOG.warning("%s The checkpoint before it is used.", error)
        return None

    def save(self, state: RunState, bundle: Bundle) -> bool:
        """Save a state and its bundle; returns whether the state was written."""
        self.create()
        step = state.step
        name = f"The checkpoint of step {step}"
        saved = self.disk.write(name, self.checkpoint(step), save_state, state)
        if saved:
            name = f"The bundle of step {step}"
            self.disk.write(name, self.bundle_at(step), replace_shareable, bundle)
        return saved

    def retain(self, newest: int, pinned: Collection[int]) -> None:
        """Delete checkpoints and bundles but for the newest and pinned ones; 0 deletes none."""
        if not newest:
            return
        for folder in ("checkpoints", "bundles"):
            for step in step_files(self.path / folder)[:-newest]:
                if step not in pinned:
                    discard(self.path / folder / f"step_{step:08}.safetensors")

    def sweep(self) -> None:
        """Delete what a run left half written when it was killed."""
        subfolders = [self.path / "checkpoints", self.path / "bundles", self.previews]
        for folder in (self.path, *subfolders):
            # Behind a link, files of these names may be anybody's.
            for path in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
                if DRAFT.fullmatch(path.name):
                    discard(path)

    @property
    def peft(self) -> Path:
        """A DoRA on rows for diffusers, which divides by other lengths than the host."""
        return self.path / "dora_for_diffusers.safetensors"

    def save_peft(self, tensors: Mapping[str, Tensor]) -> str:
        """Save what diffusers needs, if anything; returns a line that says where."""
        if not tensors:
            return ""
        name, metadata = "The file for diffusers", {"format": "pt"}
        self.disk.write(name, self.peft, replace_safetensors, tensors, metadata)
        return f"\nfor diffusers: {below_output(self.peft)} in ComfyUI's output folder"

    def finish(self, bundle: Bundle, report: str, plot: Image, progress: Mapping[str, Any]) -> bool:
        """Save the result; what marks the run as finished comes last."""
        self.create()
        texts = self.disk.write("The report", self.report, replace_text, report + "\n")
        self.disk.write("The plot", self.path / "loss.png", save_picture, plot)
        whole = self.disk.write("The bundle", self.bundle, replace_shareable, bundle)
        return texts and whole and self.save_progress(progress)

    def save_progress(self, progress: Mapping[str, Any]) -> bool:
        """Save how many steps were requested, and after how many the run finished, if it has."""
        place = self.path / PROGRESS
        text = json.dumps(progress)
        return self.disk.write("The progress", place, replace_text, text)

    def progress(self) -> dict[str, Any]:
        """The counts that `save_progress` saved last; {} when it never did."""
        saved = read_object(self.path / PROGRESS)
        return {name: saved[name] for name in ("steps", "finished") if is_count(saved.get(name))}

    def recipe(self) -> dict[str, Any]:
        """The recipe of the run, which leaves out the number of steps."""
        recipe = read_object(self.path / IDENTITY).get("recipe")
        return recipe if isinstance(recipe, dict) else {}

    def rewind(self, step: int) -> int:
        """Remove reports of later steps from the journal; returns how many lines are left."""
        lines = [line for line in self.reports() if line["step"] <= step]
        # Also to remove a line that was cut off.
        if os.path.lexists(self.journal.path):
            self.disk.write("The journal", self.journal.path, lambda _: self.journal.rewrite(lines))
        return len(lines)


def replace_shareable(path: Path, bundle: Bundle) -> None:
    """Write a bundle without what names the dataset: people share these files as they are."""
    most = Metadata.RECIPE if keeps_metadata() else Metadata.NAMES
    replace_bundle(path, without_private(bundle, most))


def step_files(folder: Path) -> list[int]:
    """The steps of the files in a folder, in order."""
    if not folder.is_dir():
        return []
    matches = (STEP_FILE.fullmatch(path.name) for path in folder.iterdir() if path.is_file())
    return sorted(int(match[1]) for match in matches if match)


def is_count(value: object) -> bool:
    """Whether a value is a whole number of 0 or more that a file of ours can hold."""
    return type(value) is int and 0 <= value < 2**53


def run_folders() -> list[RunFolder]:
    """The folders of all runs."""
    root = runs_root()
    if not root.is_dir():
        return []
    return [RunFolder(path, "") for path in root.iterdir() if (path / IDENTITY).is_file()]


def runs_root() -> Path:
    """The folder that holds the folders of all runs, of the present user's with --multi-user."""
    output, user = Path(folder_paths.get_output_directory()), current_user()
    return output / f"{RUNS}_users" / user if user else output / RUNS


def find_run_folder(name: str, identity: Identity) -> RunFolder:
    """The folder of the run with this name and identity, which need not exist yet.

    Where another run has the name, it is <name>_2, <name>_3 and so on.
    """
    base, text = checked_run_name(name), identity.saved()
    for number in itertools.count(1):
        path = runs_root() / (base if number == 1 else f"{base}_{number}")
        if not path.exists() or _unborn(path):
            return RunFolder(path, text)
        notes = identity.matches(read_object(path / IDENTITY))
        if notes is not None:
            return RunFolder(path, text, notes=tuple(notes))
    raise AssertionError("unreachable")


def _unborn(path: Path) -> bool:
    """Whether a run was killed here before it could write its identity, which comes first."""
    return path.is_dir() and all(DRAFT.fullmatch(one.name) for one in path.iterdir())
