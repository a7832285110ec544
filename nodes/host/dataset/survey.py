"""Checks of a dataset in the host: measures, features, tokens, and boxes and masks of nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, cast

import torch
from comfy.clip_vision import ClipVisionModel
from comfy.sd import CLIP
from torch import Tensor

from ....training.dataset.checks.measure import Measures
from ....training.dataset.checks.verdict import measured
from ....training.dataset.facts import Store
from ....training.dataset.pictures.decode import open_small
from ....training.dataset.records import Box, Dataset, Framing, Record
from ....training.words.concepts import Concept
from ..digests import model_digest
from ..evaluate.features import encode_pictures
from ..events import watched
from ..folders import file_facts
from ..images import as_image, keep_picture
from ..text.tokenizer import PLAIN, takes_vectors, with_names

SEEN = 448
"""Longer side, in pixels, of a picture for a vision model; most of them look at 224 to 384."""


def measure_all(dataset: Dataset) -> list[Measures]:
    """Measures of every picture; after Cancel, those that are done need not be repeated."""
    with closing(file_facts()) as store:
        return list(watched(measured(dataset, store), len(dataset.records)))


def features_of(
    dataset: Dataset, measures: Sequence[Measures], vision: ClipVisionModel | None
) -> list[Tensor] | None:
    """A vision model's features (d) of every picture, empty if it cannot be decoded.

    They are stored in half precision. None without a vision model.
    """
    if vision is None:
        return None
    kind = f"vision {model_digest(vision.patcher)} {SEEN}"
    pairs = zip(dataset.records, measures, strict=True)
    with closing(file_facts()) as store:
        return [
            torch.empty(0) if measure.error else _features(record, vision, store, kind)
            for record, measure in watched(pairs, len(dataset.records))
        ]


def _features(record: Record, vision: ClipVisionModel, store: Store, kind: str) -> Tensor:
    def encoded() -> str:
        features = encode_pictures(vision, as_image(open_small(record, SEEN)))[0].half()
        if not features.isfinite().all():
            raise ValueError(
                f"The vision model gives NaN or infinite values for {record.name}: load another "
                "one, or disconnect clip_vision."
            )
        return bytes(features.numpy().tobytes()).hex()

    text = store.fact(f"{kind} {record.transparency.value}", record.path, encoded, _are_features)
    return _decoded(text)


def _are_features(text: Any) -> bool:
    """Whether a stored text holds the features of a picture, all of them finite."""
    try:
        return isinstance(text, str) and bool(_decoded(text).isfinite().all())
    except ValueError:
        return False


def _decoded(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.float16).float()


def placeholders_of(dataset: Dataset, concepts: Sequence[Concept]) -> list[str]:
    """Placeholders that captions should mention: of the concepts, else of the pictures' labels."""
    given = [concept.placeholder for concept in concepts]
    labels = [record.concept for record in dataset.records if record.concept and record.kind]
    return list(dict.fromkeys(given or labels))


def token_counter(clip: CLIP | None) -> Callable[[str], int] | None:
    """Counts a caption's tokens in the encoder that needs the most of them; None without a CLIP."""
    if clip is None:
        return None

    takes = takes_vectors(clip)
    plain, options = (with_names(clip, ()), {PLAIN: True}) if takes else (clip, {})

    def count(text: str) -> int:
        tokens = plain.tokenize(text, return_word_ids=True, **options)
        rows = [
            sum(1 for token in chunk if len(token) > 2 and token[2])
            for chunks in tokens.values()
            for chunk in [[token for part in chunks for token in part]]
        ]
        return max(rows, default=0)

    return count


def with_boxes(dataset: Dataset, bboxes: Any) -> Dataset:
    """The dataset with the host's boxes; ValueError if there is not one entry for each picture."""
    if bboxes is None:
        return dataset
    rows = _rows(bboxes, len(dataset.records))
    if len(rows) != len(dataset.records):
        raise ValueError(
            f"There are bboxes for {len(rows)} images, but {len(dataset.records)} images: "
            "give the detector the images of Dataset to Lists."
        )
    records = tuple(
        replace(record, boxes=tuple(_box(box) for box in row))
        for record, row in zip(dataset.records, rows, strict=True)
    )
    return replace(dataset, records=records)


def _rows(bboxes: Any, pictures: int) -> list[list[Mapping[str, Any]]]:
    """Boxes by picture, from any of the forms in which nodes return them.

    Nodes return one box, a list for one picture, a list of lists, or lists of those if a detector
    ran once for each picture.
    """
    if isinstance(bboxes, Mapping):
        return [[cast("Mapping[str, Any]", bboxes)]]
    rows: list[list[Mapping[str, Any]]] = []
    flat = all(isinstance(entry, Mapping) for entry in bboxes)
    if flat and bboxes:
        return [[box] for box in bboxes] if len(bboxes) == pictures else [list(bboxes)]
    for entry in bboxes:
        if isinstance(entry, Mapping):
            rows.append([cast("Mapping[str, Any]", entry)])
        elif entry and all(isinstance(inner, list) for inner in entry):
            rows += [list(inner) for inner in entry]
        else:
            rows.append(list(entry))
    return rows


def _box(box: Mapping[str, Any]) -> Box:
    left, top, width, height = (round(float(box[k])) for k in ("x", "y", "width", "height"))
    return Box(left, top, max(width, 1), max(height, 1))


def with_masks(dataset: Dataset, masks: Sequence[Tensor] | None, framing: Framing) -> Dataset:
    """The dataset with settings for its crops and, if given, the host's masks."""
    paths: list[Any] = [record.mask for record in dataset.records]
    if masks is not None:
        flat = [mask for batch in masks for mask in (batch if batch.ndim == 3 else batch[None])]
        if len(flat) not in (1, len(paths)):
            raise ValueError(
                f"There are {len(flat)} masks for {len(paths)} images: give one for each, made "
                "from the images of Dataset to Lists."
            )
        saved = [keep_picture(mask, f"Mask {n}") for n, mask in enumerate(flat, 1)]
        paths = saved * len(paths) if len(saved) == 1 else saved
    records = tuple(
        replace(record, mask=path, framing=framing)
        for record, path in zip(dataset.records, paths, strict=True)
    )
    return replace(dataset, records=records)
