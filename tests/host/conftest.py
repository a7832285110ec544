"""What host tests share: one host in this process and two tiny checkpoints."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import comfy.model_management
import pytest

from harness.host.checkpoints import load_cut
from harness.host.measure import left_behind
from harness.host.runner import Host, Loaded, Outputs, start_host
from pack.nodes.host.folders import user_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def host() -> Host:
    """The host with its own nodes and the pack's, in this process."""
    started = start_host(ROOT)
    gc.collect()
    # Half a million objects that stay: each later collection would look at all of them.
    gc.freeze()
    return started


@pytest.fixture(scope="session")
def run_graph(host: Host) -> Callable[..., Outputs]:
    """`run_graph(prompt)` through the host's executor; `Harness_Keep` makes a value an output."""
    return host.run


@pytest.fixture(autouse=True)
def nothing_encoded() -> None:
    """Each test finds no latents kept from another's run on the same pictures."""
    shutil.rmtree(user_folder("latents"), ignore_errors=True)


@pytest.fixture(autouse=True)
def unloaded(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test finds the shared models bare: the clone that was loaded last leaves its patches.

    A test after which a forward of another than the host stays on one of them fails.
    """
    yield
    comfy.model_management.unload_all_models()
    if "host" in request.fixturenames:
        models = request.getfixturevalue("host").loaded.values()
        roots = [root for one in models for root in (one.model.model, one.clip.cond_stage_model)]
        assert left_behind(*roots) == []


@pytest.fixture(scope="session")
def sd15(host: Host) -> Loaded:
    """A tiny SD1.5 model; in a graph the node `Harness_Checkpoint` with family "sd15" gives it."""
    host.loaded["sd15"] = load_cut("sd15")
    return host.loaded["sd15"]


@pytest.fixture(scope="module")
def sdxl(host: Host) -> Iterator[Loaded]:
    """A tiny SDXL model, kept in memory for one test file at a time."""
    host.loaded["sdxl"] = load_cut("sdxl")
    yield host.loaded["sdxl"]
    del host.loaded["sdxl"]
    comfy.model_management.unload_all_models()
    gc.collect()
