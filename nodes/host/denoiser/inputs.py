"""Inputs of a model: which samples go side by side, and how they get to its device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; constants go to a GPU from pinned memory, so that no CPU waits."""
    if device.type != "cuda" or tensor.device.type != "cpu" or tensor.requires_grad:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def groups(each: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Samples whose inputs the host can put side by side, in the order of their first ones."""
    found: list[list[int]] = []
    for place, inputs in enumerate(each):
        for group in found:
            first_one = each[group[0]]
            if first_one.keys() == inputs.keys() and all(
                first_one[name].can_concat(value) for name, value in inputs.items()
            ):
                group.append(place)
                break
        else:
            found.append([place])
    return found


def first(tensor: Tensor) -> Tensor:
    """The first number of each sample, (batch,)."""
    return tensor.flatten(1)[:, 0]
