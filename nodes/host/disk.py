"""Writing and deleting files without ending a run if the disk refuses."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec

import folder_paths
from safetensors import SafetensorError

LOG = logging.getLogger(__name__)
P = ParamSpec("P")


def below_output(path: Path) -> str:
    """A file as reports name it: below ComfyUI's output folder, whose own path may name a user."""
    root = Path(folder_paths.get_output_directory())
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


class Disk:
    """Best-effort writes: logs the first failure, then stays quiet until a write succeeds."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        """The last failure, until a write succeeds."""

    def write(
        self,
        what: str,
        path: Path,
        writer: Callable[Concatenate[Path, P], object],
        *content: P.args,
        **options: P.kwargs,
    ) -> bool:
        """Whether `writer(path, *content)` succeeded; a missing folder is created first.

        `what` names the file in messages, such as "The plot".
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            writer(path, *content, **options)
        except (OSError, SafetensorError) as error:
            if self.trouble is None:
                LOG.warning(
                    "%s could not be written to %s (%s): make room or access there; training "
                    "continues without it.",
                    what,
                    path,
                    error,
                )
            # Every page of the server shows this one, so it has no path.
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            self.trouble = (
                f"{what} could not be written ({reason}): make room or access in the run's folder; "
                "training continues without it."
            )
            return False
        self.trouble = None
        return True


def discard(path: Path) -> None:
    """Delete a file or folder that is no longer needed; a failure is only logged."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        LOG.warning("%s could not be deleted (%s): delete it, nothing needs it.", path, error)
