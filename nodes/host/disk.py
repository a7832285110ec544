"""Writing that may fail without ending a run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

LOG = logging.getLogger(__name__)


class Disk:
    """Tries to write; a disk that refuses is told of once, until it takes something again."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        """What could not be written last, while that is so"""

    def attempt(self, what: str, place: Path, write: Callable[[], Any]) -> bool:
        """Whether `write` went well; a folder that is gone is made again first."""
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write()
        except (OSError, SafetensorError) as error:
            sentence = (
                f"{what} could not be written to {place} ({error}): make room or access there; "
                "training goes on without it."
            )
            if self.trouble is None:
                LOG.warning("%s", sentence)
            self.trouble = sentence
            return False
        self.trouble = None
        return True


def discard(path: Path) -> None:
    """Delete what is of no use any more; where that fails it stays, with a line in the log."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        LOG.warning("%s could not be deleted (%s): delete it, nothing needs it.", path, error)
