"""The oldest ComfyUI that the pack runs on, and the one sentence that an older one gets."""

from __future__ import annotations

import re

import comfyui_version

OLDEST = (0, 16, 3)
"""`dev.py hosts` runs the pack on this one; pyproject.toml and README.md state the same."""


def check_version(version: str = comfyui_version.__version__) -> None:
    """Raise RuntimeError on a host that is too old; a version that cannot be read passes."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found and tuple(map(int, found.groups())) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise RuntimeError(
            f"Pivotal needs ComfyUI {oldest} or newer and this is {version}: update ComfyUI."
        )
