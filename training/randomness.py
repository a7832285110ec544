"""Random generators that depend on nothing but their key, so that a run can be repeated."""

from __future__ import annotations

import hashlib

import torch


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator for one purpose, such as `generator(seed, "order", epoch)`.

    Keys are hashed, because neighboring seeds of the generator itself give related streams
    and sums of seeds collide.
    """
    return device_generator(torch.device("cpu"), *key)


def device_generator(device: torch.device, *key: int | str) -> torch.Generator:
    """A generator on a device, for draws that are too large to send there."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") % 2**63)
