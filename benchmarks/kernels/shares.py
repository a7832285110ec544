"""The share of a UNet's multiplications that the other ways to compute a step could affect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

CASES = (("sd15", "SD1.5", 32), ("sd15", "SD1.5", 64), ("sdxl", "SDXL", 128))
PROJECTIONS = ("attn1.to_q", "attn1.to_k", "attn1.to_v")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """The work of one forward pass with batch 1."""

    family: str
    latent: int
    multiplications: float
    """In billions, each with its addition"""
    projections: float
    """The share of q, k and v of self-attention"""
    convolutions: float


def rows() -> Iterator[Shares]:
    from comfy.ldm.modules.attention import attention_pytorch
    from speed.models import unet

    options = {"optimized_attention_override": lambda _, *a, **k: attention_pytorch(*a, **k)}
    for size, family, latent in CASES:
        network, width = unet(size), 2048 if size == "sdxl" else 768
        with torch.device("meta"), torch.no_grad():
            inputs = {"context": torch.empty(1, 77, width), "transformer_options": options}
            if size == "sdxl":
                inputs["y"] = torch.empty(1, 2816)
            noisy, step = torch.empty(1, 4, latent, latent), torch.empty(1)
            with FlopCounterMode(display=False, depth=99) as counter:
                network(noisy, step, **inputs)
        total, each = counter.get_total_flops(), counter.get_flop_counts()
        narrow = sum(sum(n.values()) for name, n in each.items() if name.endswith(PROJECTIONS))
        wide = sum(n for kind, n in each["Global"].items() if "conv" in str(kind))
        yield Shares(
            family=family, latent=latent, multiplications=total / 2e9,
            projections=narrow / total, convolutions=wide / total,
        )  # fmt: skip
