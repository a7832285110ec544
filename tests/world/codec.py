"""A picture codec in the TAESD layout whose weights are written down: cell means, colors turned.

A latent cell is the mean color of 8 x 8 pixels, seen along the four axes of a tetrahedron, which
gives all four channels the same spread. Pictures made of flat cells come back exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

LATENT_SCALE = 0.18215
# The decoder begins with 3 tanh(x / 3): a small signal passes it unbent (1e-5 of its size).
SMALL = 0.01
HALF_RANGE = 0.4
AXES = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5


def latents_of(pixels: Tensor) -> Tensor:
    """Pixels (..., 64, 64, 3) in 0..1 to unit-variance latents (..., 4, 8, 8), as the UNet sees."""
    cells = pixels.unflatten(-2, (-1, 8)).unflatten(-4, (-1, 8)).mean((-2, -4))
    return ((cells - 0.5) / HALF_RANGE @ AXES.T).movedim(-1, -3)


def pixels_of(latents: Tensor) -> Tensor:
    """The inverse of `latents_of` for pictures made of flat cells."""
    cells = latents.movedim(-3, -1) @ (AXES * 0.75 * HALF_RANGE) + 0.5
    return cells.repeat_interleave(8, -3).repeat_interleave(8, -2)


def codec_weights() -> dict[str, Tensor]:
    """All weights of the codec as in a checkpoint; on the meta device where they are zero."""
    import comfy.taesd.taesd

    weights: dict[str, Tensor] = {}
    for key, shaped in comfy.taesd.taesd.TAESD(latent_channels=4).state_dict().items():
        weights[key] = torch.empty(shaped.shape, device="meta")
    weights |= {"vae_scale": torch.tensor(LATENT_SCALE * SMALL), "vae_shift": torch.tensor(0.0)}
    weights |= encoder_weights(weights) | decoder_weights(weights)
    return {f"first_stage_model.{key}": value for key, value in weights.items()}


def convolutions(weights: dict[str, Tensor], part: str) -> list[str]:
    """Names of the convolutions between the residual blocks, whose zero weights pass all on."""
    names = {key.rsplit(".", 1)[0] for key in weights if key.startswith(part)}
    return sorted((n for n in names if n.count(".") == 1), key=lambda n: int(n.split(".")[1]))


def encoder_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy the colors, halve the size three times by means, turn the colors."""
    first, *halvings, last = convolutions(weights, "taesd_encoder.")
    mean = torch.zeros(64, 64, 3, 3)
    # With stride 2 and padding 1 the last two taps of a kernel see one 2 x 2 group of pixels.
    mean[range(3), range(3), 1:, 1:] = 0.25
    turn = AXES / HALF_RANGE * SMALL
    return {
        f"{first}.weight": center(64, 3, torch.eye(3)),
        **{f"{name}.weight": mean for name in halvings},
        f"{last}.weight": center(4, 64, turn),
        f"{last}.bias": -0.5 * turn.sum(1),
    }


def decoder_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split the signal by sign, which passes every ReLU, enlarge it, turn the colors back."""
    first, *copies, last = convolutions(weights, "taesd_decoder.")
    signs = torch.cat((torch.eye(4), -torch.eye(4))) / SMALL
    back = AXES.T * 0.75 * HALF_RANGE
    return {
        f"{first}.weight": center(64, 4, signs),
        **{f"{name}.weight": center(64, 64, torch.eye(8)) for name in copies},
        f"{last}.weight": center(3, 64, torch.cat((back, -back), 1)),
        f"{last}.bias": torch.full((3,), 0.5),
    }


def center(outputs: int, inputs: int, matrix: Tensor) -> Tensor:
    """A 3 x 3 kernel that applies `matrix` to the first channels of the middle pixel."""
    kernel = torch.zeros(outputs, inputs, 3, 3)
    kernel[: matrix.shape[0], : matrix.shape[1], 1, 1] = matrix
    return kernel
