"""Which ComfyUI and packages the pack needs, and what older hosts lack."""

from __future__ import annotations

import logging
import re
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path

import comfy.model_management as management
import comfyui_version
import torch

OLDEST = (0, 16, 3)
"""`dev.py hosts` runs the pack on this one; pyproject.toml and README.md state the same."""


NEEDED = ("diffusers", "prodigyopt")
"""The lines of requirements.txt."""


def check_version(version: str = comfyui_version.__version__) -> None:
    """Raise RuntimeError on a host that is too old; an unreadable version passes."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found and tuple(map(int, found.groups())) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise RuntimeError(
            f"Pivotal needs ComfyUI {oldest} or newer and this is {version}: update ComfyUI."
        )


def report_missing() -> None:
    """Log one line that names every missing package; nodes that need none of them work anyway."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        logging.getLogger(__name__).warning(
            "Pivotal misses %s: run python -m pip install %s with ComfyUI's Python.",
            " and ".join(missing),
            " ".join(missing),
        )


def is_within(folder: Path | str, path: Path | str) -> bool:
    """Whether a path lies in a folder, links followed; the host can say so from 0.27 on."""
    try:
        return Path(path).resolve().is_relative_to(Path(folder).resolve())
    except ValueError:
        # A null byte is in no path.
        return False


def intermediate_dtype() -> torch.dtype:
    """What the host keeps latents and pictures in; fp32 before 0.18."""
    found = getattr(management, "intermediate_dtype", None)
    return found() if found else torch.float32


def device_context(device: torch.device) -> AbstractContextManager[None]:
    """Make a CUDA device the current one, which the host does itself from 0.24 on."""
    found = getattr(management, "cuda_device_context", None)
    if found:
        return found(device)
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def is_oom(error: Exception) -> bool:
    """Whether an error says that memory ran out; hosts before 0.18 know one class of it."""
    found = getattr(management, "is_oom", None)
    return found(error) if found else isinstance(error, torch.OutOfMemoryError)
