"""A tiny random Qwen3-VL in the file format of the real one, for the host's own CLIPLoader."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.ops
import comfy.text_encoders.qwen3vl as qwen
import torch
from safetensors.torch import save_file

KIND = "qwen3vl_8b"
TEXT: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
TEXT |= {"num_attention_heads": 2, "num_key_value_heads": 1}
VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "depth": 3,
    "deepstack_visual_indexes": [0, 1],
}


@contextmanager
def tiny_qwen() -> Iterator[None]:
    """The host's classes with small sizes: everything else of them is as it is."""
    text, vision = qwen.QWEN3VL_CONFIGS[KIND], qwen.QWEN3VL_VISION[KIND]
    qwen.QWEN3VL_CONFIGS[KIND] = functools.partial(text, **TEXT)
    qwen.QWEN3VL_VISION[KIND] = VISION
    try:
        yield
    finally:
        qwen.QWEN3VL_CONFIGS[KIND], qwen.QWEN3VL_VISION[KIND] = text, vision


def save_vlm(path: Path) -> Path:
    """Random weights under the names of the published file; call it inside `tiny_qwen`."""
    torch.manual_seed(0)
    model = qwen._make_qwen3vl_model(KIND)({}, torch.float32, "cpu", comfy.ops.manual_cast)
    weights = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("visual."):
            name = f"model.{name}"
        elif name.startswith("model.lm_head."):
            name = name.removeprefix("model.")
        else:
            name = name.replace("model.", "model.language_model.", 1)
        value = torch.randn_like(tensor) * 0.05
        weights[name] = value + 1 if name.endswith("norm.weight") else value
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    return path
