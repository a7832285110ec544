"""The smallest models that the host's own loader finds, of families whose width it has fixed.

From the keys of Chroma, Lumina 2, Z-Image or Qwen-Image the loader takes the numbers of the release
but for how many blocks there are, so one block of the release's width is the least: 0.4 to 0.9
billion numbers. Their encoders are cut, as far as the network's width of text allows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from .families import TINY, Tiny, load_tiny

WIDTHS: dict[str, dict[str, Any]] = {
    "chroma": {
        "hidden_size": 3072,
        "num_heads": 24,
        "out_dim": 3072,
        "hidden_dim": 5120,
        "n_layers": 5,
    },
    "lumina2": {
        "dim": 2304,
        "n_heads": 24,
        "n_kv_heads": 8,
        "axes_dims": [32, 32, 32],
        "multiple_of": 256,
        "n_refiner_layers": 2,
    },
    "zimage": {
        "dim": 3840,
        "n_heads": 30,
        "n_kv_heads": 30,
        "axes_dims": [32, 48, 48],
        "multiple_of": 256,
        "n_refiner_layers": 2,
    },
    "qwenimage": {
        "num_layers": 1,
        "num_attention_heads": 24,
        "joint_attention_dim": 3584,
    },
}
"""The release's numbers that the loader does not read from a file, in place of the tiny ones"""


def numbers(name: str) -> Tiny:
    """The numbers of a family's smallest file."""
    tiny = TINY[name]
    whole = frozenset({"hidden_size"}) if name == "qwenimage" else tiny.whole
    return replace(tiny, network={**tiny.network, **WIDTHS[name]}, fixed=False, whole=whole)


def load(name: str, *, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE, the MODEL found by the host in its weights alone: up to 2 GB of them."""
    return load_tiny(numbers(name), seed, dtype)
