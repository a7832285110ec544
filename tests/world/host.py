"""Makes the host importable for the commands of this folder; tests have their conftest for it."""

from __future__ import annotations

import os
import sys


def use_host() -> None:
    """Put the ComfyUI folder of PIVOTAL_COMFYUI on the path and keep it on the CPU."""
    folder = os.environ.get("PIVOTAL_COMFYUI")
    if not folder:
        raise SystemExit("Set PIVOTAL_COMFYUI to a ComfyUI folder.")
    sys.path.insert(0, folder)
    import comfy.options  # noqa: F401
    from comfy.cli_args import args

    # Must come before the first import of comfy.model_management, which reads it.
    args.cpu = True
