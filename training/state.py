"""A run's state: all it takes to resume bit for bit."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
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
LOSSES, AVERAGE, PARAMETERS = "losses", "average.", "parameters."
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


KINDS = {
    "vectors": "concepts",
    "outputs": "output embeddings",
    "adapters": "layers of the diffusion model",
    "text_adapters": "layers of the text encoders",
}
"""What people call the kinds of trained things, which are the first words of parameters' names"""
CURE = (
    "Set the concepts, and the adapter's targets, text_encoder and rank, as they were in the run "
    "of that checkpoint, or disconnect Continue Run to begin anew."
)


def check_fits(state: RunState, parameters: Mapping[str, Tensor]) -> None:
    """Raise ValueError, with what differs, if a checkpoint is not one of these parameters."""
    kept = {
        name.removeprefix(PARAMETERS): tensor
        for name, tensor in state.tensors.items()
        if name.startswith(PARAMETERS)
    }
    differing = [
        *_named("the checkpoint has {}, which this graph does not train", kept, parameters),
        *_named("this graph trains {}, which the checkpoint does not have", parameters, kept),
    ]
    for name in parameters if not differing else ():
        before, now = tuple(kept[name].shape), tuple(parameters[name].shape)
        if before != now:
            differing = [f"{name} is {before} in the checkpoint and {now} in this graph"]
            break
    if differing:
        raise ValueError(f"The checkpoint does not fit: {'; '.join(differing)}. {CURE}")


def _named(sentence: str, these: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """One clause for each kind of thing of which these have more than the others."""
    clauses: list[str] = []
    for kind, words in KINDS.items():
        own, theirs = (_things(kind, names) for names in (these, others))
        extra = [thing for thing in own if thing not in theirs]
        if extra:
            clauses.append(sentence.format(f"the {words} {_few(extra)}"))
    if not clauses and these.keys() - others.keys():
        # The same layers with other factors, as another kind of adapter has them.
        extra = sorted(these.keys() - others.keys())
        clauses.append(sentence.format(f"the factors {_few(extra)}"))
    return clauses


def _things(kind: str, names: Mapping[str, Any]) -> list[str]:
    """The concepts or layers among names of parameters of a kind."""
    own = [name.partition(".")[2] for name in names if name.partition(".")[0] == kind]
    return list(dict.fromkeys(name.rpartition(".")[0] for name in own))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def restore_parameters(state: RunState, parameters: Mapping[str, nn.Parameter]) -> None:
    """Write saved values into parameters; ValueError if the state belongs to another run."""
    check_fits(state, parameters)
    for name, parameter in parameters.items():
        parameter.data.copy_(state.tensors[f"{PARAMETERS}{name}"])


def restore_optimizers(state: RunState, optimizers: Optimizers) -> list[str]:
    """Restore new optimizers, group by group of the same name; returns what starts afresh.

    They keep their new settings, since a run may resume with other rates; a different algorithm
    starts afresh. Their own `load_state_dict` would cast moments to the parameters' dtype.
    """
    notes: list[str] = []
    for part, optimizer in optimizers.items():
        numbers, prefix = state.numbers.get(part), f"optimizers.{part}."
        kind = type(optimizer).__name__
        if numbers is None or numbers.get("kind", kind) != kind:
            before = f"was {numbers['kind']}" if numbers else "is not in the checkpoint"
            notes.append(f"The optimizer of the {part} ({kind}) {before}: it starts afresh.")
            continue
        places, unknown = _places(numbers["groups"], optimizer)
        if unknown:
            notes.append(
                f"The optimizer of the {part} starts afresh for {', '.join(unknown)}, which it had "
                "not in the checkpoint."
            )
        by_name = {kept["name"]: kept for kept in numbers["groups"]}
        for group in optimizer.param_groups:
            kept = by_name.get(group["name"], {})
            group |= {name: kept[name] for name in RUNNING if name in kept}
        for index, values in numbers["values"].items():
            if int(index) in places:
                optimizer.state[places[int(index)]].update(values)
        for key, tensor in state.tensors.items():
            if key.startswith(prefix):
                index, _, name = key[len(prefix) :].partition(".")
                parameter = places.get(int(index))
                if parameter is None:
                    continue
                # torch counts steps on the CPU, unless one kernel does the whole update.
                stays = name == "step" and not optimizer.param_groups[0].get("fused")
                device = torch.device("cpu") if stays else parameter.device
                optimizer.state[parameter][name] = tensor.to(device, copy=True)
        # A state captured after the loop has ended by itself holds Schedule-Free's average; one
        # captured between steps, by a checkpoint or on Cancel, the point at which gradients are
        # taken. `train_mode` (restored above) says which, and this moves the first to the second.
        to_training(optimizer)
    return notes


def _places(
    saved: Sequence[Mapping[str, Any]], optimizer: torch.optim.Optimizer
) -> tuple[dict[int, nn.Parameter], list[str]]:
    """The parameter for each index in a saved state, and the groups that the state does not have.

    Indices count on through the groups, whose order is that in which concepts were connected.
    """
    own = {group["name"]: group["params"] for group in optimizer.param_groups}
    places: dict[int, nn.Parameter] = {}
    known: set[str] = set()
    start = 0
    for group in saved:
        parameters = own.get(group["name"], [])
        if len(parameters) == group["params"]:
            places |= {start + index: each for index, each in enumerate(parameters)}
            known.add(group["name"])
        start += group["params"]
    return places, [name for name in own if name not in known]


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
    try:
        text = cast("dict[str, Any]", json.loads(metadata["state"]))
        losses: list[float] = tensors.pop(LOSSES).tolist()  # pyright: ignore
        for name in ("validations", "events"):
            text[name] = tuple(cast("list[Any]", text[name]))
        return RunState(tensors=tensors, losses=tuple(losses), **text)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is a damaged checkpoint: choose another one.") from error


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
