"""Tiny checkpoints, built once for each state of the code that builds them."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from harness.environment import cache_folder

WORLD = Path(__file__).resolve().parents[1] / "world"
SECONDS_A_DAY = 86400.0


def cached_checkpoint(name: str, build: Callable[[Path], None]) -> Path:
    """Return `<cache>/checkpoints/<digest>/<name>.safetensors`, built by `build` when missing."""
    folder = cache_folder() / "checkpoints" / world_digest()
    path = folder / f"{name}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        forget_old(folder)
        temporary = path.with_suffix(f".{os.getpid()}.part")
        build(temporary)
        os.replace(temporary, path)
    return path


def world_digest() -> str:
    """Name what the builders are: the text of their files."""
    sources = [WORLD / "checkpoints.py", WORLD / "holes.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def forget_old(folder: Path) -> None:
    """Delete the checkpoints of earlier code that nobody has built into for a day."""
    for sibling in folder.parent.iterdir():
        if sibling != folder and time.time() - sibling.stat().st_mtime > SECONDS_A_DAY:
            shutil.rmtree(sibling, ignore_errors=True)


def place(path: Path, target: Path) -> None:
    """Show a cached file at `target` without copying it where the file system allows that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
