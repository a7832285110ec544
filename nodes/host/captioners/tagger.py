"""WD taggers: tags for pictures from an ONNX file, which needs onnxruntime."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as management
from PIL import Image, ImageOps
from torch import Tensor

from ....training.dataset.captioning.ask import Asking, Captioner
from ....training.dataset.captions.tags import join_tags, same_tag, split_tags, with_blanks
from ....training.dataset.pictures.pixels import to_tensor

GENERAL, CHARACTER = "0", "4"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tagging:
    """Which tags to give and how to write them."""

    general: float = 0.35
    character: float = 0.85
    first: str = ""
    exclude: str = ""
    spaces: bool = True


class Tagger:
    """A WD tagger as a captioner."""

    follows_instructions = False

    def __init__(self, folder: Path, tagging: Tagging):
        self._tagging = tagging
        self._rows = _read_tags(folder / "selected_tags.csv")
        self._session = _session(folder / "model.onnx")
        entry = self._session.get_inputs()[0]
        self._input, self._side = entry.name, int(entry.shape[1])
        status = (folder / "model.onnx").stat()
        # Part of the names of journals: the name of the class and of its fields must stay.
        self.identity = f"{folder.name} {status.st_size} {status.st_mtime_ns} {tagging}"

    def caption(
        self, pictures: Sequence[Image.Image], asking: Asking, seeds: Sequence[int]
    ) -> list[str]:
        """The tags of each picture, characters first, and the most certain first within a kind."""
        management.throw_exception_if_processing_interrupted()
        pixels = [_pixels(picture, self._side) for picture in pictures]
        stack = pixels[0].new_empty((len(pixels), *pixels[0].shape))
        for row, picture in enumerate(pixels):
            stack[row] = picture
        (scores,) = self._session.run(None, {self._input: stack.numpy()})
        return [self._tags(row) for row in scores.tolist()]

    def _tags(self, scores: Sequence[float]) -> str:
        t = self._tagging
        excluded = {same_tag(tag) for tag in split_tags(t.exclude)}
        limits = {GENERAL: t.general, CHARACTER: t.character}
        scored = [
            (category != CHARACTER, -score, written(name, spaces=t.spaces))
            for (name, category), score in zip(self._rows, scores, strict=True)
            if limits.get(category, 1.0) < 1
            and score >= limits[category]
            and same_tag(name) not in excluded
        ]
        first = split_tags(t.first)
        written_first = {same_tag(tag) for tag in first}
        return join_tags(
            [*first, *(tag for *_, tag in sorted(scored) if same_tag(tag) not in written_first)]
        )


def written(name: str, *, spaces: bool) -> str:
    """The tag as a caption has it."""
    return with_blanks(name) if spaces else name


def _pixels(picture: Image.Image, side: int) -> Tensor:
    """(side, side, 3) floats of 0..255 in the order blue, green, red, padded with white."""
    longest = max(picture.size)
    square = ImageOps.pad(picture.convert("RGB"), (longest, longest), color="white")
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


_: type[Captioner] = Tagger
