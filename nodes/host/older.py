"""What the newest hosts offer and the oldest that the pack runs on do not, looked up here alone."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import comfy.model_management as management
import torch


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
