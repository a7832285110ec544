"""Pictures encoded by the host's VAE one by one, or in a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from .turns import Row, compare

IDEA = "a batch of pictures through the VAE"
SIDE, PICTURES, PAIRS = 128, 2, 6


@torch.no_grad()
def vae() -> Any:
    """SD1.5's autoencoder at its real size with random weights, as the host creates it."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    shape = {
        "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3,
        "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [],
        "dropout": 0.0,
    }  # fmt: skip
    autoencoder = AutoencoderKL(ddconfig=shape, embed_dim=4).eval()
    for weight in autoencoder.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=(weight[0].numel()) ** -0.5)
        else:
            torch.nn.init.zeros_(weight)
    return autoencoder


def rows() -> Iterator[Row]:
    autoencoder, pixels = vae(), torch.rand(PICTURES, 3, SIDE, SIDE)

    def alone() -> None:
        with torch.no_grad():
            for picture in pixels.split(1):
                autoencoder.encode(picture)

    def together() -> None:
        with torch.no_grad():
            autoencoder.encode(pixels)

    case = f"{PICTURES} pictures of {SIDE}x{SIDE}"
    yield compare(IDEA, case, alone, together, PAIRS)
