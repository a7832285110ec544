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

from . import Dialect, Parts, Source, read_rest

FIELD = "pivotal.embeddings"
DTYPES = {"F32": torch.float32, "F16": torch.float16}
_SIZES = {"F32": 4, "F16": 2}


def pack(embeddings: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Vectors (n, d) by name and key as text; half precision wherever that loses no bit."""
    return json.dumps(
        {
            name: {key: _packed(rows.to(torch.float32)) for key, rows in vectors.items()}
            for name, vectors in embeddings.items()
        }
    )


def unpack(text: str) -> dict[str, dict[str, Tensor]]:
    """What `pack` made of vectors; ValueError for any other text."""
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
    kept = (half if exact else rows).contiguous()
    data = kept.view(torch.uint8).flatten().numpy().tobytes()
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
        raise ValueError("no shape of vectors")
    if math.prod(shape) * _SIZES[dtype] != len(data):
        raise ValueError("another size than the shape says")
    return torch.frombuffer(bytearray(data), dtype=DTYPES[dtype]).reshape(shape)


def _recognizes(source: Source) -> bool:
    return FIELD in source.metadata


def _read(source: Source) -> Parts:
    others = {key: text for key, text in source.metadata.items() if key != FIELD}
    rest = read_rest(replace(source, metadata=others))
    return replace(rest, embeddings={**rest.embeddings, **unpack(source.metadata[FIELD])})


DIALECT = Dialect(
    title="a LoRA with embeddings in its header", recognizes=_recognizes, read=_read, certain=True
)
