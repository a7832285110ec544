"""Which ComfyUI and packages the pack needs, and what older hosts lack."""

from __future__ import annotations

import logging
import re
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path

import comfy.model_management as management
import comfyui_version
import PIL
import torch

OLDEST = (0, 16, 3)
"""`dev.py hosts` tests the pack on this version; pyproject.toml and README.md state it too."""


NEEDED = ("diffusers", "prodigyopt")
"""The same packages as in requirements.txt."""


def check_version(version: str = comfyui_version.__version__) -> None:
    """Raise RuntimeError on a host that is too old; an unreadable version passes."""
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if numbers and tuple(map(int, numbers.groups())) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise RuntimeError(
            f"Pivotal needs ComfyUI {oldest} or newer and this is {version}: update ComfyUI."
        )


LEAST_PILLOW = 13
"""Older versions can be harmed by images of strangers; SECURITY.md names the advisories."""


def report_missing(pillow: str = PIL.__version__) -> None:
    """Log a line for packages that are missing, and one for a Pillow with known holes.

    Nodes that need no missing package work anyway, and images are opened with any Pillow.
    """
    if int(pillow.partition(".")[0]) < LEAST_PILLOW:
        logging.getLogger(__name__).warning(
            "Pillow %s can be harmed by images of strangers: open only your own, or run python -m "
            "pip install --upgrade pillow with ComfyUI's Python.",
            pillow,
        )
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        logging.getLogger(__name__).warning(
            "Pivotal misses %s: run python -m pip install %s with ComfyUI's Python.",
            " and ".join(missing),
            " ".join(missing),
        )


def is_within(folder: Path | str, path: Path | str) -> bool:
    """Whether a path, once links are resolved, is inside a folder; hosts before 0.27 lack this."""
    try:
        return Path(path).resolve().is_relative_to(Path(folder).resolve())
    except ValueError:
        # A path cannot contain a null byte.
        return False


def intermediate_dtype() -> torch.dtype:
    """The dtype in which the host keeps latents and pictures; fp32 before 0.18."""
    host_dtype = getattr(management, "intermediate_dtype", None)
    return host_dtype() if host_dtype else torch.float32


def device_context(device: torch.device) -> AbstractContextManager[None]:
    """Make a CUDA device the current one; the host does this itself since 0.24."""
    host_context = getattr(management, "cuda_device_context", None)
    if host_context:
        return host_context(device)
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def is_oom(error: Exception) -> bool:
    """Whether memory ran out; hosts before 0.18 cannot be asked, so torch's class decides there."""
    host_check = getattr(management, "is_oom", None)
    return host_check(error) if host_check else isinstance(error, torch.OutOfMemoryError)
