"""The weights that the base's training starts from: random, with three paths laid out by hand.

Predicting noise asks for an exact copy of the input, drawing a shape asks each cell to know where
it is, and both ask to hear the words. Left to chance, all three are learned late: group norms blur
a copy, a convolution learns of its place from the zeros beyond the border alone, and ten words
drown in 67 padding tokens. So the start holds a copy of the input up to the last layer, channels
that hear nothing but that border, and cross-attention that is deaf to what an empty prompt says.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import base_unet

WIDTH = 320
# Whole groups of the norms, so that noise in other channels does not reach them: norms have 32
# groups, of 10 channels and, where a skip joins, of 20.
COPY = slice(0, 10)
PLACE = slice(300, 320)
PLACE_GAIN = 2.0
QUIET = ("out_layers.3.weight", "proj_out.weight", "to_out.0.weight", "ff.net.2.weight")
QUIET_GAIN = 0.3
ANCHOR = 4.0
PADDING_DIRECTIONS = 16
WORD_GAIN = 2.0

Weights = dict[str, Tensor]


def start_weights(empty: Tensor, seed: int = 0) -> Weights:
    """All weights of the UNet in fp32; `empty` (77, 768) is the empty prompt's conditioning."""
    generator = torch.Generator().manual_seed(seed)
    weights = random_weights(generator)
    weights["out.2.weight"].zero_()
    lay_place(weights, generator)
    lay_copy(weights)
    hear_words(weights, empty)
    return weights


def random_weights(generator: torch.Generator) -> Weights:
    """Weights that keep a signal's size, with quiet residual branches."""
    weights = {}
    for key, shaped in base_unet("meta").state_dict().items():
        if shaped.dim() == 1:
            norm = any(part in key for part in ("norm", "in_layers.0.", "out_layers.0.", "out.0."))
            value = torch.full(shaped.shape, float(norm and key.endswith("weight")))
        else:
            gain = QUIET_GAIN if key.endswith(QUIET) else 1.0
            spread = gain * (shaped.numel() / shaped.shape[0]) ** -0.5
            value = torch.randn(shaped.shape, generator=generator) * spread
        weights[key] = value
    return weights


def lay_copy(weights: Weights) -> None:
    """Carry the input x along the outer skip to the output as silu(x) - silu(-x) = x."""
    first, skip, last = "input_blocks.0.0", "output_blocks.1.0.skip_connection", "out.2.weight"
    eye = torch.eye(4)
    weights[f"{first}.weight"][:4] = 0
    weights[f"{first}.weight"][:4, :, 1, 1] = eye
    weights[f"{skip}.weight"][COPY] = 0
    weights[f"{skip}.weight"][:8, WIDTH : WIDTH + 4, 0, 0] = torch.cat((eye, -eye))
    # Two large constants in the group keep the norm from following the noise's own size.
    weights[f"{skip}.bias"][8:10] = torch.tensor((ANCHOR, -ANCHOR))
    for branch in ("output_blocks.1.0.out_layers.3", "output_blocks.1.1.proj_out"):
        weights[f"{branch}.weight"][COPY] = 0
    size = ((8 + 2 * ANCHOR**2) / 10) ** 0.5
    weights[last][:, :8, 1, 1] = torch.cat((eye, -eye), 1) * size


def lay_place(weights: Weights, generator: torch.Generator) -> None:
    """Make of some channels a small random network that sees only where the picture ends."""
    weights["input_blocks.0.0.weight"][PLACE] = 0
    weights["input_blocks.0.0.bias"][PLACE] = torch.randn(20, generator=generator)
    for block in ("input_blocks.1.0", "output_blocks.0.0", "output_blocks.1.0"):
        weights[f"{block}.emb_layers.1.weight"][PLACE] = 0
        for layer in ("in_layers.2", "out_layers.3"):
            kernel = weights[f"{block}.{layer}.weight"]
            kernel[PLACE] = 0
            for start in range(PLACE.start, kernel.shape[1], WIDTH):
                random = torch.randn(20, 20, 3, 3, generator=generator)
                kernel[PLACE, start : start + 20] = random * 180**-0.5
            weights[f"{block}.{layer}.bias"][PLACE] = torch.randn(20, generator=generator) / 2
        if f"{block}.skip_connection.weight" in weights:
            weights[f"{block}.skip_connection.weight"][PLACE] = 0
            weights[f"{block}.skip_connection.weight"][PLACE, PLACE, 0, 0] = torch.eye(20)
    for block in ("input_blocks.1.1", "output_blocks.0.1", "output_blocks.1.1"):
        weights[f"{block}.norm.weight"][PLACE] = PLACE_GAIN
        weights[f"{block}.proj_out.weight"][PLACE] = 0


def hear_words(weights: Weights, empty: Tensor) -> None:
    """Take the main directions of an empty prompt out of keys and values, and turn words up."""
    deaf = torch.linalg.svd(empty.float(), full_matrices=False).Vh[:PADDING_DIRECTIONS]
    for key, weight in weights.items():
        if key.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            weights[key] = WORD_GAIN * (weight - weight @ deaf.T @ deaf)
        elif key.endswith("attn2.to_out.0.weight"):
            weights[key] = weight / QUIET_GAIN
