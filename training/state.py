"""A run's state: all it takes to resume bit for bit."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..bundles.files.safetensors import read_safetensors, replace_safetensors
from .optimizers.choices import to_training

Optimizers = Mapping[str, torch.optim.Optimizer]
FORMAT = "2"
RULE = 2
"""Of new runs. Under rule 1 every batch of a step weighed the same, however few samples it had."""
LOSSES, AVERAGE = "losses", "average."
RUNNING = (
    "k", "d", "d_max", "d_numerator", "d_hat", "weight_sum", "lr_max", "scheduled_lr", "train_mode",
)  # fmt: skip
"""Counters that Prodigy and Schedule-Free keep in their groups; the rest are settings."""
JSON_FIELDS = (
    "step", "rule", "numbers", "pivots", "shares", "split", "averaged", "validations", "events",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """A run after `step` steps. Draws and order are functions of the seed and not saved."""

    step: int
    tensors: Mapping[str, Tensor]
    """On the CPU: `parameters.<name>` and `optimizers.<part>.<index>.<name>`"""
    numbers: Mapping[str, Any]
    """JSON: the optimizers' groups and their state that is not a tensor"""
    pivots: Mapping[str, int] = field(default_factory=dict[str, int])
    """The step at which each concept freezes or froze; one that never freezes is missing"""
    shares: Mapping[str, float] = field(default_factory=dict[str, float])
    """The share of the steps after which each concept was set to freeze"""
    split: bool = False
    """Whether the run computes sample by sample, since it ran out of memory"""
    rule: int = 1
    """The rule by which the samples of a step are weighed, to the end of the run"""
    averaged: int = 0
    """Number of steps in the averages, which are the tensors `average.<name>`"""
    losses: tuple[float, ...] = ()
    validations: tuple[Mapping[str, Any], ...] = ()
    """Results of validation in the order of the steps"""
    events: tuple[Mapping[str, Any], ...] = ()
    """Commands to the run, and the settings that changed when it continued"""

    def groups(self, optimizers: Collection[str]) -> set[str]:
        """Names of the groups of these optimizers, which are those that had not been frozen."""
        present = [self.numbers[name] for name in optimizers if name in self.numbers]
        return {group["name"] for numbers in present for group in numbers["groups"]}


def capture(step: int, parameters: Mapping[str, nn.Parameter], optimizers: Optimizers) -> RunState:
    """A copy of everything that the next step depends on."""
    tensors = {f"parameters.{name}": _copy(tensor) for name, tensor in parameters.items()}
    numbers: dict[str, Any] = {}
    for part, optimizer in optimizers.items():
        values: dict[str, dict[str, Any]] = {}
        for index, parameter in enumerate(_parameters(optimizer)):
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimizers.{part}.{index}.{name}"] = _copy(value)
                else:
                    values.setdefault(str(index), {})[name] = value
        groups = [{**group, "params": len(group["params"])} for group in optimizer.param_groups]
        kind = type(optimizer).__name__
        numbers[part] = {"kind": kind, "groups": groups, "values": values}
    return RunState(step=step, tensors=tensors, numbers=numbers)


def as_averages(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of averages under their names in a state."""
    return {f"{AVERAGE}{name}": _copy(tensor) for name, tensor in tensors.items()}


def averages(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averages in a state by the names of their parameters."""
    return {n.removeprefix(AVERAGE): t for n, t in tensors.items() if n.startswith(AVERAGE)}


def restore_parameters(state: RunState, parameters: Mapping[str, nn.Parameter]) -> None:
    """Write saved values into parameters; ValueError if the state belongs to another run."""
    kept = {name for name in state.tensors if name.startswith("parameters.")}
    if kept != {f"parameters.{name}" for name in parameters}:
        raise ValueError("The checkpoint belongs to another run: choose another run name.")
    for name, parameter in parameters.items():
        kept_value = state.tensors[f"parameters.{name}"]
        if kept_value.shape != parameter.shape:
            raise ValueError(
                f"The checkpoint has other sizes than this run ({name} is "
                f"{tuple(kept_value.shape)}, not {tuple(parameter.shape)}): set ranks and vectors "
                "as they were, or choose another run name."
            )
    for name, parameter in parameters.items():
        parameter.data.copy_(state.tensors[f"parameters.{name}"])


def restore_optimizers(state: RunState, optimizers: Optimizers) -> None:
    """Restore new optimizers of the same groups.

    They keep their new settings, since a run may resume with other rates; a different algorithm
    starts afresh. Their own `load_state_dict` would cast moments to the parameters' dtype.
    """
    for part, optimizer in optimizers.items():
        numbers, prefix = state.numbers.get(part), f"optimizers.{part}."
        if numbers is None or not _fits(numbers, optimizer):
            continue
        for group, kept in zip(optimizer.param_groups, numbers["groups"], strict=True):
            group |= {name: kept[name] for name in RUNNING if name in kept}
        parameters = _parameters(optimizer)
        for index, values in numbers["values"].items():
            optimizer.state[parameters[int(index)]].update(values)
        for key, tensor in state.tensors.items():
            if key.startswith(prefix):
                index, _, name = key[len(prefix) :].partition(".")
                parameter = parameters[int(index)]
                # torch counts steps on the CPU, unless one kernel does the whole update.
                stays = name == "step" and not optimizer.param_groups[0].get("fused")
                device = torch.device("cpu") if stays else parameter.device
                optimizer.state[parameter][name] = tensor.to(device, copy=True)
        # A state captured after the loop has ended by itself holds Schedule-Free's average; one
        # captured between steps, by a checkpoint or on Cancel, the point at which gradients are
        # taken. `train_mode` (restored above) says which, and this moves the first to the second.
        to_training(optimizer)


def _fits(numbers: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> bool:
    """Whether a saved state is that of this algorithm with these groups."""
    kind = type(optimizer).__name__
    names = [group["name"] for group in optimizer.param_groups]
    return numbers.get("kind", kind) == kind and [g["name"] for g in numbers["groups"]] == names


def save_state(path: Path, state: RunState) -> None:
    """Write a checkpoint atomically."""
    text = {name: getattr(state, name) for name in JSON_FIELDS}
    metadata = {"format": FORMAT, "state": json.dumps(text)}
    # As numbers they would soon be the larger part of the file's header.
    losses = {LOSSES: torch.tensor(state.losses, dtype=torch.float64)}
    replace_safetensors(path, {**state.tensors, **losses}, metadata)


def load_state(path: Path) -> RunState:
    """Load a checkpoint. Raises ValueError if the file is not one."""
    tensors, metadata = read_safetensors(path)
    if metadata.get("format") != FORMAT or "state" not in metadata:
        raise ValueError(f"{path} is not a checkpoint of this version: choose another run name.")
    text = cast("dict[str, Any]", json.loads(metadata["state"]))
    losses: list[float] = tensors.pop(LOSSES).tolist()  # pyright: ignore
    for name in ("validations", "events"):
        text[name] = tuple(cast("list[Any]", text[name]))
    return RunState(tensors=tensors, losses=tuple(losses), **text)


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
