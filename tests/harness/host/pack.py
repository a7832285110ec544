"""The pack, under the name `pack`, and ComfyUI in this process."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def load_pack() -> None:
    """Give the repository root the package name `pack`, so that its relative imports work."""
    if "pack" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["pack"])


def prepare_host(folder: str, base: str, *, cpu: bool = True) -> None:
    """Put the host on the path and point every folder that it writes to at `base`."""
    sys.path.insert(0, str(Path(folder).resolve()))
    import comfy.options  # noqa: F401  - must come before cli_args
    from comfy.cli_args import args

    args.cpu = cpu
    args.base_directory = base
    args.database_url = "sqlite:///:memory:"
    # As main.py does, before nodes.py, which puts another `utils` on the path in older hosts.
    import utils.extra_config  # noqa: F401
