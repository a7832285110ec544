"""Writes safetensors files whose all-zero tensors are holes that take no disk space."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

DTYPE_CODES = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}


def write_with_holes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` to `path`; one on the meta device stands for zeros and becomes a hole."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPE_CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        first = file.tell()
        for name, tensor in tensors.items():
            if tensor.device.type != "meta":
                file.seek(first + header[name]["data_offsets"][0])
                file.write(tensor.contiguous().numpy().tobytes())
        file.truncate(first + end)
