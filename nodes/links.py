"""What arrives over a link fits its input, or one sentence says what does not.

ComfyUI converts what is typed and checks the types of sockets, but an output of type * fits every
input, and a switch of another pack may pass on None or anything else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from comfy_api.latest import io

from ..bundles.bundle import Bundle
from ..bundles.privacy import Metadata
from ..training.adapters.base import AdapterConfig
from ..training.dataset.records import Dataset
from ..training.objective import ObjectiveConfig
from ..training.optimizers.choices import OptimizerConfig

Convert = Callable[[Any], Any]
"""Returns the value that a node takes; ValueError or TypeError for one that it does not take."""

FROM_DISK = frozenset({"checkpoint", "file", "folder", "lora", "model"})
"""Choices that are files and folders: the code that opens them says which of them are missing."""

SWITCHES: Mapping[str, Mapping[bool, str]] = {
    "metadata": {True: Metadata.EVERYTHING.value, False: Metadata.RECIPE.value}
}
"""Choices that took the place of a switch, with what its saved values mean"""


def guarded(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, made to check its inputs first; a linked value of its fingerprint is unknown."""
    execute, fingerprint = node.execute, node.fingerprint_inputs
    defined = _overrides(node, "fingerprint_inputs")

    @functools.wraps(execute.__func__)
    def checked(cls: type[io.ComfyNode], *values: Any, **inputs: Any) -> io.NodeOutput:
        schema = node.define_schema()
        return execute.__func__(cls, *values, **fitting(schema, inputs))

    @functools.wraps(fingerprint.__func__)
    def stated(cls: type[io.ComfyNode], **inputs: Any) -> Any:
        # ComfyUI asks before the graph runs and gives None for what is linked.
        unknown = [name for name in _named(fingerprint.__func__) if inputs.get(name, "") is None]
        return float("nan") if unknown else fingerprint.__func__(cls, **inputs)

    node.execute = classmethod(checked)  # pyright: ignore[reportAttributeAccessIssue]
    if defined:
        node.fingerprint_inputs = classmethod(stated)  # pyright: ignore[reportAttributeAccessIssue]
    return node


def fitting(schema: io.Schema, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs as the schema promises them; ValueError names the one that cannot be used.

    An optional input that gets None counts as not connected, a text that may be empty as empty.
    """
    kinds = {one.id: one for one in schema.inputs}
    taken = dict[str, Any]()
    for name, value in inputs.items():
        kind = kinds.get(name)
        if kind is None:
            taken[name] = value
        elif schema.is_input_list:
            items = [item for item in value if item is not None] if kind.optional else value
            if items or not kind.optional:
                taken[name] = items
        elif value is not None:
            taken[name] = _fit(kind, value)
        elif kind.optional:
            continue
        elif isinstance(kind, io.String.Input) and kind.default == "":
            taken[name] = ""
        else:
            raise ValueError(
                f"{name} gets nothing: the node that is connected to it, or one before that, is "
                "bypassed, muted or switched off. Connect a value or remove the link."
            )
    return taken


def _fit(kind: io.Input, value: Any) -> Any:
    convert = CONVERT.get(kind.get_io_type())
    if isinstance(value, bool) and kind.id in SWITCHES:
        value = SWITCHES[kind.id][value]
    try:
        made = convert(value) if convert else value
    except (TypeError, ValueError):
        raise ValueError(
            f"{kind.id} gets {_shown(value)}, which is no {kind.get_io_type()}: connect another "
            "output."
        ) from None
    choices = getattr(kind, "options", None) if isinstance(kind, io.Combo.Input) else None
    if choices and kind.id not in FROM_DISK and made not in choices:
        raise ValueError(f"{kind.id} gets {_shown(value)}: choose {', '.join(map(str, choices))}.")
    return made


def _shown(value: Any) -> str:
    """A value in a sentence: itself if it is short, otherwise its type."""
    short = isinstance(value, str | int | float) and len(str(value)) <= 40
    return repr(value) if short else f"a {type(value).__name__}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return str(value)


def _whole(value: Any) -> int:
    if isinstance(value, int):
        return value
    number = _number(value)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _number(value: Any) -> float:
    # An int stays one: it is part of a run's identity as it came.
    if isinstance(value, int | float):
        return value
    if not isinstance(value, str):
        raise TypeError
    return float(value)


def _switch(value: Any) -> bool:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not isinstance(value, int | float):
        raise TypeError
    return bool(value)


def _of(kind: type) -> Convert:
    def check(value: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError
        return value

    return check


def _with(attribute: str) -> Convert:
    """Other packs wrap models in classes of their own, which have what the pack uses."""

    def check(value: Any) -> Any:
        if not hasattr(value, attribute):
            raise TypeError
        return value

    return check


CONVERT: dict[str, Convert] = {
    "STRING": _text,
    "COMBO": _text,
    "INT": _whole,
    "FLOAT": _number,
    "BOOLEAN": _switch,
    "MODEL": _with("model_options"),
    "CLIP": _with("tokenize"),
    "VAE": _with("encode"),
    "IMAGE": _of(torch.Tensor),
    "MASK": _of(torch.Tensor),
    "PIVOTAL_ADAPTER": _of(AdapterConfig),
    "PIVOTAL_BUNDLE": _of(Bundle),
    "PIVOTAL_CONCEPTS": _of(tuple),
    "PIVOTAL_DATASET": _of(Dataset),
    "PIVOTAL_OBJECTIVE": _of(ObjectiveConfig),
    "PIVOTAL_OPTIMIZER": _of(OptimizerConfig),
}


def _overrides(node: type[io.ComfyNode], name: str) -> bool:
    return getattr(node, name).__func__ is not getattr(io.ComfyNode, name).__func__


def _named(function: Callable[..., Any]) -> tuple[str, ...]:
    """The parameters that a function has by name, without cls."""
    code = function.__code__
    return code.co_varnames[1 : code.co_argcount]
