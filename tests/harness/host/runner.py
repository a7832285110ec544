"""Run API prompts through the host's own validation and executor, in this process."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import execution
import server
from comfy.cli_args import args

import nodes
from harness.tools.environment import link

Prompt = dict[str, dict[str, Any]]


class GraphFailed(RuntimeError):
    """A node raised, or the prompt was refused; the text is what the user reads."""

    def __init__(self, text: str, node: str | None = None, kind: str = "refused") -> None:
        super().__init__(text)
        self.node, self.kind = node, kind


class GraphInterrupted(RuntimeError):
    """The run ended by Cancel, inside the node `node`."""

    def __init__(self, node: str) -> None:
        super().__init__(f"interrupted in node {node}")
        self.node = node


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """What a finished graph gave: `outputs["5", 0]` is the first output of node 5."""

    ui: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, list[list[Any]]]
    messages: list[tuple[str, dict[str, Any]]]

    def __getitem__(self, link: tuple[str, int]) -> Any:
        """One output: its value, or the list of values where the node ran or gave a list."""
        node, index = link
        values = self.values[node][index]
        return values[0] if len(values) == 1 else values


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A checkpoint in memory, loaded under inference mode as the executor does it."""

    model: Any
    clip: Any
    vae: Any
    path: Path


class QuietServer(server.PromptServer):
    """The host's server object without a port; it keeps the events that nodes send."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.events: list[tuple[str, Any]] = []

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
        self.events.append((event, data))


@dataclass(slots=True)
class Host:
    """The host in this process, with its own nodes, the pack's and two of the tests'."""

    server: QuietServer
    loaded: dict[str, Loaded] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        """The folder that holds the host's models, input, output, temp and user folders."""
        return Path(args.base_directory)

    def executor(self) -> execution.PromptExecutor:
        """A new executor: its cache lives as long as it does."""
        sizes = {"lru": 0, "ram": 0, "ram_inactive": 0}
        kind = execution.CacheType.CLASSIC
        return execution.PromptExecutor(self.server, cache_type=kind, cache_args=sizes)

    def run(
        self, prompt: Prompt, executor: execution.PromptExecutor | None = None, **extra_data: Any
    ) -> Outputs:
        """Validate and execute a prompt; an executor that is given again finds its cache again."""
        identity = str(uuid.uuid4())
        accepted, error, targets, by_node = asyncio.run(
            execution.validate_prompt(identity, prompt, None)
        )
        if not accepted:
            raise GraphFailed(refusal(error, by_node))
        executor = executor or self.executor()
        self.server.events.clear()
        executor.execute(prompt, identity, extra_data, targets)
        raise_failure(executor)
        return Outputs(
            ui=executor.history_result["outputs"],
            values=asyncio.run(cached(executor, prompt)),
            messages=executor.status_messages,
        )


def refusal(error: Mapping[str, Any], by_node: Mapping[str, Any]) -> str:
    """The sentences of a refused prompt: of its nodes where they have any."""
    found = [entry for node in by_node.values() for entry in node["errors"]] or [error]
    return "\n".join(f"{entry['message']}: {entry['details']}" for entry in found)


def raise_failure(executor: execution.PromptExecutor) -> None:
    """Turn the executor's last message into an exception of this module."""
    for event, data in executor.status_messages:
        if event == "execution_interrupted":
            raise GraphInterrupted(data["node_id"])
        if event == "execution_error":
            text = data["exception_message"].strip()
            raise GraphFailed(text, node=data["node_id"], kind=data["exception_type"])


async def cached(executor: execution.PromptExecutor, prompt: Prompt) -> dict[str, list[list[Any]]]:
    """The outputs of every node that ran."""
    entries = {node: executor.caches.outputs.get(node) for node in prompt}
    # The cache of hosts before 0.18 answers at once.
    entries = {n: await e if inspect.isawaitable(e) else e for n, e in entries.items()}
    return {node: entry.outputs for node, entry in entries.items() if entry is not None}


async def register_nodes(root: Path) -> None:
    """Register the host's extra nodes and, by the host's own loader, the pack under `pack`.

    The name makes the loader find the modules that the tests have imported already, so that the
    node classes in the graph and in the tests are the same objects.
    """
    await nodes.init_builtin_extra_nodes()
    if not (root / "nodes" / "extension.py").exists():
        return
    custom_nodes = Path(args.base_directory, "custom_nodes")
    custom_nodes.mkdir(parents=True, exist_ok=True)
    link(root, custom_nodes / "pack")
    before, tested = Path.cwd(), vars(sys.modules["pack"])
    os.chdir(custom_nodes)
    try:
        assert await nodes.load_custom_node("pack"), "the host could not load the pack: see the log"
    finally:
        os.chdir(before)
    # The loader made a new module object for the same package.
    vars(sys.modules["pack"]).update({**tested, **vars(sys.modules["pack"])})
    sys.modules["pack"].__path__ = tested["__path__"]


class AnyType(str):
    """A socket type that fits every other one."""

    def __ne__(self, other: object) -> bool:
        return False


def harness_nodes(host: Host) -> dict[str, type]:
    """Two nodes of the tests: one gives a fixture's models, one keeps any value as an output."""

    class Checkpoint:
        RETURN_TYPES = ("MODEL", "CLIP", "VAE")
        FUNCTION = "give"
        CATEGORY = "harness"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"family": ("STRING", {})}}

        def give(self, family: str) -> tuple[Any, Any, Any]:
            found = host.loaded[family]
            return found.model, found.clip, found.vae

    class Keep:
        RETURN_TYPES = (AnyType("*"),)
        FUNCTION = "keep"
        CATEGORY = "harness"
        OUTPUT_NODE = True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"value": (AnyType("*"), {})}}

        def keep(self, value: Any) -> tuple[Any]:
            return (value,)

    return {"Harness_Checkpoint": Checkpoint, "Harness_Keep": Keep}


def start_host(root: Path) -> Host:
    """Bring the host up as its main.py does, but without a port."""
    host = Host(server=QuietServer(asyncio.new_event_loop()))
    asyncio.run(register_nodes(root))
    nodes.NODE_CLASS_MAPPINGS.update(harness_nodes(host))
    return host
