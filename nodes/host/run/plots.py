"""What a run has reported, as plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from PIL.Image import Image
from torch import Tensor

from ....training.evaluation.curves import line_plot, mean_plot, stacked
from ....training.series import LOSS, SERIES, Line, Series, points_of
from ..images import as_image
from .run_folder import RunFolder, run_folders


def newest_run(name: str) -> RunFolder:
    """The run of this name that changed last, name_2 and so on included; or FileNotFoundError."""
    found = [f for f in run_folders() if f.path.name == name or is_numbered(f.path.name, name)]
    if not found:
        raise FileNotFoundError(f'There is no run "{name}": write the run_name of Train Concepts.')
    return max(found, key=lambda folder: folder.path.stat().st_mtime)


def is_numbered(folder: str, name: str) -> bool:
    """Whether a folder is that of a later run of a name: name_2, name_3, ..."""
    base, _, number = folder.rpartition("_")
    return base == name and number.isdigit()


def plot_run(folder: RunFolder) -> tuple[Tensor, list[float]]:
    """All plots below each other, (1, height, width, 3) in 0..1, and the loss of every step."""
    lines: list[Line] = list(folder.reports())
    losses = losses_of(lines)
    if not losses:
        raise ValueError(f"The run {folder.path.name} has reported no step yet.")
    pictures = [picture for series in SERIES if (picture := plot(series, lines)) is not None]
    return as_image(stacked(pictures)), losses


def losses_of(lines: Sequence[Line]) -> list[float]:
    """The loss of every step, NaN included, for which JSON has null."""
    found = (line.get(LOSS.key) for line in lines)
    losses = [loss for part in found if isinstance(part, list) for loss in cast("list[Any]", part)]
    return [loss if isinstance(loss, int | float) else float("nan") for loss in losses]


def plot(series: Series, lines: Sequence[Line]) -> Image | None:
    """The plot of a series, None when the run has not reported it."""
    points = points_of(lines, series.key)
    if not points:
        return None
    title = f"{series.title}, {series.unit}" if series.unit else series.title
    return mean_plot(title, points[""]) if series.smooth else line_plot(title, points)
