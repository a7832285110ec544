"""Run ComfyUI-Manager's own command line with its registry at another address.

`python manager_call.py ADDRESS COMFYUI WORDS...`; everything else is Manager's own.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Point the registry's client at ADDRESS, then hand over to Manager."""
    address, comfyui, *words = sys.argv[1:]
    sys.path[:] = [comfyui, *sys.path[1:]]
    import utils.extra_config  # noqa: F401  - before Manager, as main.py has it
    from comfyui_manager.common import cnr_utils

    cnr_utils.base_url = address
    sys.argv = ["cm-cli", *words]
    from cm_cli.__main__ import main as manager

    manager()


if __name__ == "__main__":
    main()
