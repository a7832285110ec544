"""Tiny checkpoints, built once for each state of the code that builds them."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.tools.environment import cache_folder

if TYPE_CHECKING:
    from harness.host.runner import Loaded

WORLD = Path(__file__).resolve().parents[2] / "world"
SECONDS_A_DAY = 86400.0
DRAWN = 4096
"""Random numbers that fill memory, over and over"""
loads = itertools.count()


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
    """The cut checkpoint of sd15 or sdxl as a loader node gives it, its weights inference ones.

    What the file does not hold has other numbers each time, as for a user.
    """
    import torch

    from harness.host.runner import Loaded
    from world import checkpoints

    path = cached_checkpoint(f"{name}_short", getattr(checkpoints, f"build_{name}_short"))
    with torch.inference_mode(), used_memory():
        model, clip, vae = checkpoints.load_short(path)
    return Loaded(model=model, clip=clip, vae=vae, path=path)


@contextmanager
def used_memory(seed: int | None = None) -> Iterator[None]:
    """Every tensor that is made without numbers has random ones, others at each load."""
    import torch
    from torch.overrides import TorchFunctionMode

    rng = torch.Generator().manual_seed(next(loads) if seed is None else seed)

    class UsedMemory(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = function(*args, **(kwargs or {}))
            if function in (torch.empty, torch.empty_like) and made.device.type == "cpu":
                fill(made, rng)
            return made

    with UsedMemory():
        yield


def fill(tensor: Any, rng: Any) -> None:
    """Write random numbers between -1 and 1, or zeros and ones into whole numbers."""
    import torch

    flat = tensor.view(-1)
    if tensor.dtype.is_floating_point:
        drawn = torch.rand(DRAWN, generator=rng).mul_(2).sub_(1).to(tensor.dtype)
    else:
        drawn = torch.randint(0, 2, (DRAWN,), generator=rng).to(tensor.dtype)
    whole = len(flat) - len(flat) % DRAWN
    flat[:whole].view(-1, DRAWN).copy_(drawn)
    flat[whole:].copy_(drawn[: len(flat) - whole])


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
