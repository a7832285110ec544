"""The checkpoint of another run that a run starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ....training.config import TrainConfig
from ....training.state import RULE, RunState, load_state
from .identity import changes
from .run_folder import STEP_FILE, RunFolder, run_folders, runs_root

NONE = "(no checkpoint yet)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """A checkpoint, and the settings that change from there on."""

    run: str
    step: int
    more_steps: int = 0
    """Steps to train from the checkpoint; 0 keeps the total of Train Concepts"""
    learning_rate: float = 0.0
    """Of the adapter; 0 keeps that of Train Concepts"""
    embedding_learning_rate: float = 0.0

    @property
    def folder(self) -> RunFolder:
        """The folder of the run that the checkpoint belongs to."""
        return RunFolder(runs_root() / self.run, "")

    def applied_to(self, config: TrainConfig) -> TrainConfig:
        """The settings of the new run; ValueError when nothing is left to train."""
        steps = self.step + self.more_steps if self.more_steps else config.steps
        if steps <= self.step:
            raise ValueError(
                f"The checkpoint has {self.step} steps and the run is to have {steps}: set more "
                "steps in Train Concepts, or more_steps in Continue Run."
            )
        optimizer, embeddings = config.optimizer, config.embedding_optimizer
        if self.learning_rate:
            optimizer = replace(optimizer, learning_rate=self.learning_rate)
        if self.embedding_learning_rate:
            embeddings = replace(embeddings, learning_rate=self.embedding_learning_rate)
        return replace(config, steps=steps, optimizer=optimizer, embedding_optimizer=embeddings)

    def state(self) -> RunState:
        """The state to start from; FileNotFoundError when the checkpoint is gone."""
        path = self.folder.checkpoint(self.step)
        if not path.is_file():
            raise FileNotFoundError(
                f"The checkpoint of step {self.step} of {self.run} is gone: choose another one."
            )
        # What continues is a run of its own, by the rule of new runs.
        return replace(load_state(path), rule=RULE)

    def changes(self, recipe: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that differ from the run that is continued: {setting: [before, now]}.

        `usual` has the value of settings that the version which made the checkpoint did not know.
        """
        changed = changes(self.folder.recipe(), recipe, usual)
        own = ("continues.run", "continues.step")
        return {name: pair for name, pair in changed.items() if name not in own}


def checkpoint_names() -> list[str]:
    """Every checkpoint as `<run>/step_<number>`, for a list to choose from."""
    names = [
        f"{folder.path.name}/step_{step:08}"
        for folder in sorted(run_folders(), key=lambda folder: folder.path.name)
        for step in reversed(folder.saved_steps())
    ]
    return names or [NONE]


def parse_checkpoint(name: str) -> tuple[str, int]:
    """The run and the step of a name from that list; ValueError for any other text."""
    run, _, file = name.rpartition("/")
    match = STEP_FILE.fullmatch(f"{file}.safetensors")
    if match is None or not any(folder.path.name == run for folder in run_folders()):
        raise ValueError(
            f'There is no checkpoint "{name}": train a run first, or refresh the list.'
        )
    return run, int(match[1])
