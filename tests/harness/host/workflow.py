"""Turn a workflow as the editor saves it into an API prompt, as the editor does on Queue.

The editor stores widget values by position, so the server's description of the nodes
(`/object_info`) says which value belongs to which input. Subgraphs are not understood.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Node = Mapping[str, Any]
NEVER, BYPASS = 2, 4
NOTES = {"Note", "MarkdownNote"}
SEEDS = ("seed", "noise_seed")
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


class Unconvertible(ValueError):
    """A workflow that this converter cannot read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A link's start: an output of a node."""

    node: int
    slot: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """The saved nodes and the links' starts, by id."""

    nodes: Mapping[int, Node]
    links: Mapping[int, Link]


def to_prompt(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt of a saved workflow; muted nodes and what hangs on them only are left out."""
    links = {number: Link(node=node, slot=slot) for number, node, slot, *_ in workflow["links"]}
    graph = Graph(nodes={node["id"]: node for node in workflow["nodes"]}, links=links)
    return {
        str(number): {
            "class_type": node["type"],
            "inputs": inputs(graph, node, describe(node, object_info)),
            "_meta": {"title": node.get("title") or node["type"]},
        }
        for number, node in graph.nodes.items()
        if runs(node)
    }


def runs(node: Node) -> bool:
    """Whether the server gets to see a node."""
    silent = node.get("mode", 0) in (NEVER, BYPASS)
    return not silent and node["type"] not in NOTES | {"Reroute", "PrimitiveNode"}


def describe(node: Node, object_info: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the server says of a node's class."""
    if node["type"] not in object_info:
        raise Unconvertible(f"The server does not know the node {node['type']} (id {node['id']}).")
    return object_info[node["type"]]


def inputs(graph: Graph, node: Node, info: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a node's widgets, overridden by what is linked to them, and its other links."""
    found: dict[str, Any] = dict(widget_values(node, info))
    for slot in node.get("inputs") or []:
        source = resolve(graph, slot.get("link"), slot["type"])
        if isinstance(source, Link):
            found[slot["name"]] = [str(source.node), source.slot]
        elif source is not None:
            found[slot["name"]] = source["value"]
    return found


def widget_values(node: Node, info: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and value of each widget; a value that the file does not have is the default."""
    saved = node.get("widgets_values") or []
    for position, name, kind, options in placed_widgets(info):
        if isinstance(saved, Mapping):
            value = saved.get(name, default(kind, options))
        else:
            value = saved[position] if position < len(saved) else default(kind, options)
        # A bare list would read as a link.
        yield name, {"__value__": value} if isinstance(value, list) else value


def placed_widgets(info: Mapping[str, Any]) -> Iterator[tuple[int, str, Any, Mapping[str, Any]]]:
    """Each widget after the place of its value in a saved node."""
    position = 0
    for name, kind, options in widgets(info):
        yield position, name, kind, options
        position += 2 if has_control(name, kind, options) else 1


def with_values(
    workflow: Mapping[str, Any],
    object_info: Mapping[str, Any],
    values: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """A copy of a workflow with other widget values; `values` is by the nodes' titles or types."""
    changed = copy.deepcopy(dict(workflow))
    for node in changed["nodes"]:
        wanted = values.get(node.get("title") or node["type"], {})
        if wanted:
            info = describe(node, object_info)
            places = {name: position for position, name, *_ in placed_widgets(info)}
            for name, value in wanted.items():
                if places[name] >= len(node["widgets_values"]):
                    fill(node["widgets_values"], info)
                node["widgets_values"][places[name]] = value
    return changed


def fill(saved: list[Any], info: Mapping[str, Any]) -> None:
    """Give the widgets that came after a file was saved their defaults, as the editor does."""
    for position, name, kind, options in placed_widgets(info):
        if position >= len(saved):
            saved += [default(kind, options)] + ["fixed"] * has_control(name, kind, options)


def widgets(info: Mapping[str, Any]) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Name, type and options of each input that the editor gives a widget, in its order."""
    for group in ("required", "optional"):
        specs = info["input"].get(group) or {}
        order: Sequence[str] = (info.get("input_order") or {}).get(group) or list(specs)
        for name in order:
            kind = specs[name][0]
            options = specs[name][1] if len(specs[name]) > 1 else {}
            known = isinstance(kind, list) or options.get("widgetType", kind) in WIDGETS
            if known and not options.get("forceInput"):
                yield name, kind, options


def has_control(name: str, kind: Any, options: Mapping[str, Any]) -> bool:
    """Whether a "control after generate" widget, with a saved value of its own, follows."""
    return kind == "INT" and bool(options.get("control_after_generate", name in SEEDS))


def default(kind: Any, options: Mapping[str, Any]) -> Any:
    """What the editor shows in a new widget."""
    choices = kind if isinstance(kind, list) else options.get("options")
    empty = {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False}
    return options.get("default", choices[0] if choices else empty.get(str(kind), ""))


def resolve(graph: Graph, number: int | None, kind: str) -> Link | dict[str, Any] | None:
    """Follow a link back to a node that runs; a dict holds a primitive's value, None is nothing."""
    if number is None:
        return None
    link = graph.links[number]
    node = graph.nodes[link.node]
    if node.get("mode", 0) == NEVER:
        return None
    if node.get("mode", 0) == BYPASS:
        return resolve(graph, bypass(node, link.slot, kind), kind)
    if node["type"] == "Reroute":
        return resolve(graph, node["inputs"][0].get("link"), kind)
    if node["type"] == "PrimitiveNode":
        return {"value": node["widgets_values"][0]}
    return link


def bypass(node: Node, slot: int, kind: str) -> int | None:
    """The link into a bypassed node that stands for its output: same place, else same type."""
    slots = node.get("inputs") or []
    candidates = [*slots[slot : slot + 1], *slots]
    return next((entry.get("link") for entry in candidates if fits(entry["type"], kind)), None)


def fits(one: str, other: str) -> bool:
    """Whether two socket types can be linked; `*` fits all and commas separate choices."""
    return "*" in (one, other) or bool(set(one.split(",")) & set(other.split(",")))
