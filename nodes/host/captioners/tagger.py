"""WD taggers: tags for pictures by an ONNX file, where onnxruntime is installed."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as management
from PIL import Image, ImageOps
from torch import Tensor

from ....training.dataset.captioning.ask import Asking
from ....training.dataset.captions.tags import join_tags, same_tag, split_tags
from ....training.dataset.pictures.pixels import to_tensor

GENERAL, CHARACTER = "0", "4"
SHORTEST_WORD = 4
"""Tags of fewer letters and marks only, such as ^_^ or o_o, keep their underscore."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tagging:
    """Which tags are given, and how they are written."""

    general: float = 0.35
    character: float = 0.85
    first: str = ""
    exclude: str = ""
    spaces: bool = True


class Tagger:
    """A WD tagger as a captioner: one session for the run, pictures in batches."""

    follows_instructions = False

    def __init__(self, folder: Path, tagging: Tagging):
        self._tagging = tagging
        self._rows = _read_tags(folder / "selected_tags.csv")
        self._session = _session(folder / "model.onnx")
        entry = self._session.get_inputs()[0]
        self._input, self._side = entry.name, int(entry.shape[1])
        status = (folder / "model.onnx").stat()
        self.identity = f"{folder.name} {status.st_size} {status.st_mtime_ns} {tagging}"

    def caption(
        self, pictures: Sequence[Image.Image], asking: Asking, seeds: Sequence[int]
    ) -> list[str]:
        """Tags of each picture, the surest first, characters before all others."""
        management.throw_exception_if_processing_interrupted()
        pixels = [_pixels(picture, self._side) for picture in pictures]
        stack = pixels[0].new_empty((len(pixels), *pixels[0].shape))
        for row, one in enumerate(pixels):
            stack[row] = one
        (scores,) = self._session.run(None, {self._input: stack.numpy()})
        return [self._tags(row) for row in scores.tolist()]

    def _tags(self, scores: Sequence[float]) -> str:
        t = self._tagging
        excluded = {same_tag(tag) for tag in split_tags(t.exclude)}
        limits = {GENERAL: t.general, CHARACTER: t.character}
        found = [
            (category != CHARACTER, -score, written(name, spaces=t.spaces))
            for (name, category), score in zip(self._rows, scores, strict=True)
            if limits.get(category, 1.0) < 1
            and score >= limits[category]
            and same_tag(name) not in excluded
        ]
        first = split_tags(t.first)
        known = {same_tag(tag) for tag in first}
        return join_tags(
            [*first, *(tag for *_, tag in sorted(found) if same_tag(tag) not in known)]
        )


def written(name: str, *, spaces: bool) -> str:
    """A tag as it goes into a caption: with blanks, unless it is a face such as ^_^."""
    is_face = len(name) < SHORTEST_WORD or not any(part.isalnum() and len(part) > 1 for part in
                                                   name.split("_"))  # fmt: skip
    return name.replace("_", " ") if spaces and not is_face else name


def _pixels(picture: Image.Image, side: int) -> Tensor:
    """(side, side, 3) floats of 0..255 in the order blue, green, red, padded with white."""
    square = ImageOps.pad(picture.convert("RGB"), (max(picture.size),) * 2, color="white")
    small = square.resize((side, side), Image.Resampling.BICUBIC)
    return (to_tensor(small) * 255).flip(2)


def _read_tags(path: Path) -> list[tuple[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return [(row["name"], row["category"]) for row in csv.DictReader(file)]


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "Taggers need the package onnxruntime. Run: python -m pip install onnxruntime"
        ) from error
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    return onnxruntime.InferenceSession(str(path), providers=providers)
