"""What the benchmarks share: where their results go, and ComfyUI with the pack in this process."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.host.pack import load_pack, prepare_host
from harness.tools.environment import HOST_VERSION

load_pack()
from pack.bundles.files.atomic import replace_text  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def prepare(base: str | Path, *, cpu: bool = True) -> None:
    """Make ComfyUI importable; everything that it writes goes below `base`."""
    prepare_host(os.environ["PIVOTAL_COMFYUI"], str(base), cpu=cpu)


def machine() -> str:
    """The versions and the machine that a result depends on."""
    return (
        f"ComfyUI {HOST_VERSION}, torch {importlib.metadata.version('torch')}, "
        f"Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores, CPU only"
    )


def read_json(path: Path, default: Any) -> Any:
    """What an earlier call has left in a file, if it has."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(content, indent=1) + "\n")


def publish(path: Path, content: Any, page: Callable[[Any], str]) -> None:
    """Write results as JSON and, under the same name, the page that is made from them."""
    write_json(path, content)
    replace_text(path.with_suffix(".md"), page(content))
