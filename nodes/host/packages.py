"""Which of the packages that Manager installs for the pack are there."""

from __future__ import annotations

import logging
from importlib.util import find_spec

NEEDED = ("diffusers", "prodigyopt")
"""The lines of requirements.txt."""


def report_missing() -> None:
    """One line in the log for all that is missing; what does not need it works all the same."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        logging.getLogger(__name__).warning(
            "Pivotal misses %s: run python -m pip install %s with ComfyUI's Python.",
            " and ".join(missing),
            " ".join(missing),
        )
