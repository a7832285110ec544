"""Load the pack as the host does, under the name `pack`; keep the host on the CPU."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.editor.browser import MISSING, find_browser
from harness.host.pack import load_pack, prepare_host

if TYPE_CHECKING:
    from harness.host.server import Server

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
HOST = os.environ.get("PIVOTAL_COMFYUI")


os.environ["HF_HUB_OFFLINE"] = "1"
# Threads that spin while they wait make a busy machine ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
load_pack()
# The folder nodes/ must never shadow the host's module of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
if HOST:
    BASE = tempfile.mkdtemp(prefix="pivotal-host-")
    prepare_host(HOST, BASE)


def pytest_unconfigure() -> None:
    """Take the host's temporary folder away."""
    if HOST:
        shutil.rmtree(BASE, ignore_errors=True)


def pytest_report_header() -> str:
    """Say which host the tests run on."""
    return f"ComfyUI: {HOST or 'none, so no host tests (set PIVOTAL_COMFYUI)'}"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave tests/host out when there is no host: its files import it."""
    folders = (TESTS / "host", TESTS / "browser")
    return True if not HOST and collection_path in folders else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in tests/host and tests/browser, and skip what this machine cannot run."""
    for item in items:
        if TESTS / "host" in item.path.parents:
            item.add_marker("host")
        elif TESTS / "browser" in item.path.parents:
            item.add_marker("browser")
            if not find_browser():
                item.add_marker(pytest.mark.skip(reason=MISSING))
        elif not HOST and item.get_closest_marker("host"):
            item.add_marker(pytest.mark.skip(reason="needs ComfyUI: set PIVOTAL_COMFYUI"))
        if item.get_closest_marker("cuda") and not has_cuda():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server with the pack, a checkpoint, a caption model and a node of the tests."""
    from harness.faults.cancelling import furnish
    from harness.host.server import Server

    base = tmp_path_factory.mktemp("server")
    furnish(base)
    with Server(Path(sys.executable), Path(str(HOST)), base, ["--cpu"]) as running:
        yield running


def has_cuda() -> bool:
    """Ask torch, which is imported only when a test carries the marker."""
    import torch

    return torch.cuda.is_available()
