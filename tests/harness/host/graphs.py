"""Prompts in the host's API form, built node by node; widgets keep their defaults."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import nodes
from harness.host.runner import AnyType

Link = list[Any]
serial = itertools.count()


class Node(str):
    """The id of a node in a graph."""

    def out(self, index: int = 0) -> Link:
        """A link to one of the node's outputs."""
        return [str(self), index]


class Give:
    """A node that gives a value of the test."""

    VALUES: dict[str, Any] = {}
    RETURN_TYPES = (AnyType("*"),)
    FUNCTION = "give"
    CATEGORY = "harness"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"key": ("STRING", {})}}

    def give(self, key: str) -> tuple[Any]:
        return (self.VALUES[key],)


class Graph(dict[str, dict[str, Any]]):
    """An API prompt."""

    def add(self, kind: str, **inputs: Any) -> Node:
        """A node of class `kind`; required widgets that are not in `inputs` get their defaults."""
        node = Node(f"{kind.rpartition('_')[2]}{len(self) + 1}")
        self[node] = {"class_type": kind, "inputs": {**defaults(kind), **inputs}}
        return node

    def give(self, value: Any) -> Link:
        """A link to a value of the test."""
        nodes.NODE_CLASS_MAPPINGS.setdefault("Harness_Give", Give)
        key = str(id(value))
        Give.VALUES[key] = value
        return self.add("Harness_Give", key=key).out()

    def keep(self, link: Link) -> Node:
        """Make a value an output of the graph, so that what leads to it runs."""
        return self.add("Harness_Keep", value=link)

    def base(self, family: str) -> tuple[Link, Link, Link]:
        """MODEL, CLIP and VAE of a fixture."""
        node = self.add("Harness_Checkpoint", family=family)
        return node.out(0), node.out(1), node.out(2)

    def concept(self, placeholder: str = "TOK", **settings: Any) -> Link:
        """A concept with two vectors that start from a word."""
        settings = {"name": placeholder.lower(), "initial": "dog", **settings}
        return self.add("Pivotal_Concept", placeholder=placeholder, **settings).out()

    def train(self, base: tuple[Link, Link, Link], folder: str, **settings: Any) -> Node:
        """Train Concepts on a folder of 64 pixel pictures, small, under a name of its own."""
        model, clip, vae = base
        own = {
            "steps": 3,
            "resolution": 64,
            "checkpointing": "off",
            "run_name": f"run {next(serial)}",
        }
        settings = {**own, **settings}
        if "dataset" not in settings:
            settings["dataset"] = self.add("Pivotal_LoadDataset", folder=folder).out()
        return self.add("Pivotal_TrainConcepts", model=model, clip=clip, vae=vae, **settings)

    def sample(
        self, model: Link, clip: Link, text: str, *, steps: int = 2, cfg: float = 1.0
    ) -> Node:
        """Latents of a 64 pixel picture by the host's KSampler; the node is an output."""
        encoded = self.add("CLIPTextEncode", clip=clip, text=text).out()
        empty = self.add("EmptyLatentImage", width=64, height=64).out()
        sampled = self.add(
            "KSampler",
            model=model,
            positive=encoded,
            negative=encoded,
            latent_image=empty,
            seed=7,
            steps=steps,
            cfg=cfg,
        )
        self.keep(sampled.out())
        return sampled


def concept_run(
    folder: str,
    graph: Graph | None = None,
    kind: tuple[str, dict[str, Any]] = ("Pivotal_Lora", {"rank": 2}),
    **settings: Any,
) -> tuple[Graph, Node]:
    """A graph that trains TOK and an adapter on the tiny SD1.5, and its training node."""
    graph = graph or Graph()
    own: dict[str, Any] = {"concepts": graph.concept(pivot=0.5), "steps": 6, "batch_size": 2}
    if "adapter" not in settings:
        own["adapter"] = graph.add(kind[0], **kind[1]).out()
    run = graph.train(graph.base("sd15"), folder, **own | settings)
    graph.keep(run.out(5))
    return graph, run


def defaults(kind: str) -> dict[str, Any]:
    """What the editor would put into the required widgets of a new node."""
    required = nodes.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES().get("required", {})
    found = {name: default_of(*spec) for name, spec in required.items()}
    return {name: value for name, value in found.items() if value is not None}


def default_of(kind: Any, options: Mapping[str, Any] | None = None) -> Any:
    """The default of one widget; None where there is none, as for a socket."""
    options = options or {}
    choices = kind if isinstance(kind, list) else options.get("options", [])
    return options.get("default", choices[0] if choices else None)
