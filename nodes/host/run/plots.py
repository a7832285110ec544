"""What a run has told in its journal, as series for plots."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import Tensor

from ....training.evaluation.curves import Points, line_plot, loss_plot, stacked
from ..pictures import to_tensor
from .run_folder import RunFolder, read_lines, run_folders

Line = dict[str, Any]
PLOTS = ("loss", "concepts", "norms", "rates", "d", "movement", "validation")


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


def losses_of(lines: list[Line]) -> list[float]:
    """The loss of every step."""
    found = [loss for line in lines for loss in line.get("losses", ())]
    return [float("nan") if loss is None else loss for loss in found]


def plot_run(folder: RunFolder) -> tuple[Tensor, list[float]]:
    """All plots below each other, (1, height, width, 3) in 0..1, and the loss of every step."""
    lines = read_lines(folder.journal)
    losses = losses_of(lines)
    if not losses:
        raise ValueError(f"The run {folder.path.name} has reported no step yet.")
    pictures = [loss_plot(losses)]
    for kind in PLOTS[1:]:
        series = series_of(lines, kind)
        if series:
            pictures.append(line_plot(TITLES[kind], series))
    return to_tensor(stacked(pictures))[None], losses


TITLES = {
    "concepts": "loss of each concept",
    "norms": "gradient norm",
    "rates": "learning rate",
    "d": "Prodigy's d",
    "movement": "way of the vectors, in their own lengths",
    "validation": "validation loss",
}


def series_of(lines: list[Line], kind: str) -> dict[str, Points]:
    """Lines of one kind of number by name; movement is that of the first encoder."""
    found = defaultdict[str, list[tuple[float, float]]](list)
    for line in lines:
        for name, value in line.get(kind, {}).items():
            number = next(iter(value.values()), None) if isinstance(value, dict) else value
            if number is not None:
                found[name].append((line["step"], number))
    return dict(found)
