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
from .damage import broken, check_present, explained, reason

MODEL, TAGS = "model.onnx", "selected_tags.csv"
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
        self._name, self._tagging = folder.name, tagging
        self._rows = _read_tags(folder / TAGS)
        check_present(folder / MODEL)
        self._session = _session(folder / MODEL)
        self._input, self._side = _entrance(self._session, folder / MODEL)
        _check_count(self._session, len(self._rows), folder)
        status = (folder / MODEL).stat()
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
        with explained(self._name):
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
    """(name, category) of each tag, in the order of the model's scores."""
    check_present(path)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [(row.get("name"), row.get("category")) for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error) as error:
        raise broken(path, f"is not a readable table ({reason(error)})") from error
    tags = [(name, category) for name, category in rows if name and category]
    if not tags or len(tags) < len(rows):
        raise broken(path, "is cut short or is not a table of tags with a name and a category")
    return tags


def _entrance(session: Any, path: Path) -> tuple[str, int]:
    """The name of the model's input and the side of its square pictures."""
    entry = session.get_inputs()[0]
    if len(entry.shape) != 4 or not isinstance(entry.shape[1], int):
        raise broken(path, "is not a tagger: it does not take square pictures of one size")
    return entry.name, entry.shape[1]


def _check_count(session: Any, count: int, folder: Path) -> None:
    """Raise ValueError if the table and the model do not fit together, where the model says."""
    scores = session.get_outputs()[0].shape[-1:]
    if scores and isinstance(scores[0], int) and scores[0] != count:
        raise broken(
            folder / TAGS, f"has {count} tags and {MODEL} gives {scores[0]}, so one is cut short"
        )


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "Taggers need the package onnxruntime. Run: python -m pip install onnxruntime"
        ) from error
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(str(path), providers=providers)
    # onnxruntime has a class of error for each thing that can be wrong with a file.
    except Exception as error:
        raise broken(path, f"cannot be loaded ({reason(error)})") from error


_: type[Captioner] = Tagger
