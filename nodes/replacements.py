"""Retired nodes and what takes their place, so that old workflows open and run.

A retired node id is never used again. Each entry names all widgets of the old node in the order of
their saved values, and where each input of the new node comes from; a required input that the old
node did not have needs a value here, because the host fills in no default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from comfy_api.latest import ComfyAPI, io


@dataclass(frozen=True, kw_only=True, slots=True)
class Retired:
    """One retired node: `inputs` maps the new ids to the old ones, `outputs` to the old places."""

    old: str
    new: str
    widgets: tuple[str, ...]
    inputs: Mapping[str, str]
    values: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[int, ...] = ()

    def replacement(self) -> io.NodeReplace:
        """As the host wants it."""
        given: list[Any] = [{"new_id": new, "old_id": old} for new, old in self.inputs.items()]
        fixed: list[Any] = [
            {"new_id": new, "set_value": value} for new, value in self.values.items()
        ]
        kept: list[Any] = [{"new_idx": new, "old_idx": old} for new, old in enumerate(self.outputs)]
        return io.NodeReplace(
            new_node_id=self.new,
            old_node_id=self.old,
            old_widget_ids=list(self.widgets),
            input_mapping=[*given, *fixed],
            output_mapping=kept,
        )


RETIRED: tuple[Retired, ...] = ()
"""None yet."""


async def register(retired: Iterable[Retired] = RETIRED) -> None:
    """Tell the host; the editor then offers the swap and a queued prompt is swapped at once."""
    api = ComfyAPI()
    for one in retired:
        await api.node_replacement.register(one.replacement())
