"""Convolutions of SD1.5 with channels first or last, forward and backward to their input."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .turns import Row, compare

IDEA = "channels last"
SIZES = (
    (320, 320, 32),
    (640, 640, 16),
    (1280, 1280, 8),
    (1280, 1280, 4),
    (2560, 1280, 8),
    (1920, 640, 16),
    (960, 320, 32),
)
"""Input channels, output channels and side length of the 3x3 convolutions at latents of 32x32."""
PAIRS = 12


def work(x: Tensor, weight: Tensor, grad: Tensor) -> Callable[[], Tensor]:
    """One convolution as a frozen layer computes it, without a gradient of its weight."""
    options = [[1, 1], [1, 1], [1, 1], False, [0], 1, [True, False, False]]

    def step() -> Tensor:
        torch.nn.functional.conv2d(x, weight, padding=1)
        return torch.ops.aten.convolution_backward(grad, x, weight, None, *options)[0]

    return step


def rows() -> Iterator[Row]:
    last = torch.channels_last
    for inputs, outputs, side in SIZES:
        x, grad = torch.randn(1, inputs, side, side), torch.randn(1, outputs, side, side)
        weight = torch.randn(outputs, inputs, 3, 3) * (9 * inputs) ** -0.5
        moved, moved_grad = x.to(memory_format=last), grad.to(memory_format=last)
        case = f"{inputs} to {outputs} channels, {side}x{side}"
        ours = work(x, weight, grad)
        yield compare(f"{IDEA}, inputs", case, ours, work(moved, weight, moved_grad), PAIRS)
        every = work(moved, weight.to(memory_format=last), moved_grad)
        yield compare(f"{IDEA}, inputs and weights", case, ours, every, PAIRS)
