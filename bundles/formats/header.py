"""A plain LoRA whose header holds the embeddings, in base 85: any other program sees a LoRA."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ..bundle import Bundle
from ..files.safetensors import tensor_file
from ..metadata import BUNDLE
from . import Content, Files, Format, SaveJob, Source, Writer, read_remainder

FIELD = "pivotal.embeddings"
_DTYPES = {"F32": torch.float32, "F16": torch.float16}
_SIZES = {"F32": 4, "F16": 2}


def _pack(embeddings: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Vectors (n, d) by name and key as text; half precision wherever that loses no bit."""
    return json.dumps(
        {
            name: {key: _packed(rows) for key, rows in vectors.items()}
            for name, vectors in embeddings.items()
        }
    )


def _unpack(text: str) -> dict[str, dict[str, Tensor]]:
    """The vectors in a text of `_pack`; ValueError for any other text."""
    try:
        names = cast("dict[str, dict[str, object]]", json.loads(text))
        return {
            name: {key: _unpacked(value) for key, value in vectors.items()}
            for name, vectors in names.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError("the embeddings in its header are damaged: copy it again.") from error


def _packed(rows: Tensor) -> dict[str, object]:
    half = rows.to(torch.float16)
    exact = torch.equal(half.to(torch.float32), rows)
    numbers = (half if exact else rows).contiguous()
    data = numbers.view(torch.uint8).flatten().numpy().tobytes()
    return {
        "dtype": "F16" if exact else "F32",
        "shape": list(rows.shape),
        "data": base64.b85encode(data).decode("ascii"),
    }


def _unpacked(value: object) -> Tensor:
    fields = cast("dict[str, object]", value)
    dtype, shape = str(fields["dtype"]), cast("list[int]", fields["shape"])
    data = base64.b85decode(str(fields["data"]))
    if len(shape) != 2 or any(type(size) is not int or size < 1 for size in shape):
        raise ValueError("not a shape of vectors")
    if math.prod(shape) * _SIZES[dtype] != len(data):
        raise ValueError("the shape asks for another number of bytes")
    return torch.frombuffer(bytearray(data), dtype=_DTYPES[dtype]).reshape(shape)


def _recognizes(source: Source) -> bool:
    return FIELD in source.metadata


def _read(source: Source) -> Content:
    others = {key: text for key, text in source.metadata.items() if key != FIELD}
    remainder = read_remainder(replace(source, metadata=others))
    embeddings = {**remainder.embeddings, **_unpack(source.metadata[FIELD])}
    return replace(remainder, embeddings=embeddings)


def _files(job: SaveJob) -> Files:
    vectors: dict[str, dict[str, Tensor]] = {}
    for name, key, rows in job.vectors():
        vectors.setdefault(name, {})[key] = rows
    metadata = job.metadata(BUNDLE) | {FIELD: _pack(vectors)}
    return {job.path: tensor_file(job.lora, metadata, hashed=bool(job.lora))}


def _notes(bundle: Bundle) -> list[str]:
    only = "Only Load Bundle finds the embeddings in the header of this file."
    return [only] if bundle.names else []


FORMAT = Format(
    title="a LoRA with embeddings in its header", recognizes=_recognizes, read=_read, certain=True
)
WRITER = Writer(files=_files, notes=_notes)
