"""Tiny checkpoints, built once for each state of the code that builds them."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.tools.environment import cache_folder

if TYPE_CHECKING:
    from harness.host.runner import Loaded

WORLD = Path(__file__).resolve().parents[2] / "world"
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


def load_cut(name: str) -> Loaded:
    """The cut checkpoint of sd15 or sdxl as a loader node gives it, its weights inference ones."""
    import torch

    from harness.host.runner import Loaded
    from world import checkpoints

    path = cached_checkpoint(f"{name}_short", getattr(checkpoints, f"build_{name}_short"))
    with torch.inference_mode():
        model, clip, vae = checkpoints.load_short(path)
        # No file of these families has it and the host leaves it as raw memory, NaN at times.
        clip.cond_stage_model.clip_l.transformer.text_projection.weight.zero_()
    return Loaded(model=model, clip=clip, vae=vae, path=path)


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
