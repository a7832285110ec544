"""The largest singular values of frozen weights, which TriLoRA starts from, computed once."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ..ports import Layer
from ..randomness import generator

OVERSAMPLING, LEAST = 16, 80
"""Columns of the sketch beyond the values asked for, and the fewest that are worth a call."""
POWER_ITERATIONS = 3


def singular_values(layer: Layer, count: int) -> Tensor:
    """The `count` largest singular values of the weight as a matrix (out, in * kernel), fp32.

    Randomized SVD with power iterations (Halko, Martinsson and Tropp 2011, arXiv 0909.4061).
    They depend on the weight alone, not on a run's seed, so that they can be kept.
    """
    if layer.weight is None:
        raise ValueError(
            f"{layer.name} has no weight to take singular values from: choose the sigma "
            f'"identity", or leave the layer out with a line -{layer.name} in patterns.'
        )
    weight = layer.weight().flatten(1)
    if layer.kept is None:
        return _leading_values(weight, count)
    key = cache_key(weight, count)
    if key not in layer.kept:
        layer.kept[key] = _leading_values(weight, count)
    return layer.kept[key].clone()


def cache_key(weight: Tensor, count: int) -> str:
    """A name for the values of this weight: a digest of its numbers, and how many are asked for."""
    digest = hashlib.sha256(repr(tuple(weight.shape)).encode())
    digest.update(weight.contiguous().numpy().data)
    return f"{digest.hexdigest()}.{count}"


def _leading_values(weight: Tensor, count: int) -> Tensor:
    """By torch, which draws its test matrix from the global generator; that is put back."""
    rank = min(max(count + OVERSAMPLING, LEAST), *weight.shape)
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(generator("singular values").initial_seed())  # pyright: ignore[reportUnknownMemberType]
        return torch.svd_lowrank(weight, q=rank, niter=POWER_ITERATIONS)[1][:count].clone()
