"""Digests that tell the weights of models apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

SAMPLED_NUMBERS = 64


def model_digest(model: ModelPatcher) -> str:
    """A digest of a MODEL's weights and patches: names, shapes and some numbers of each tensor."""
    digest = hashlib.sha256()
    # Only some numbers, because reading all of a large model takes longer than a training step.
    for name, tensor in sorted(_unpatched(model).items()):
        numbers = tensor.detach().flatten()[:SAMPLED_NUMBERS].float().cpu().tolist()
        digest.update(repr((name, tuple(tensor.shape), numbers)).encode())
    for change in _changes(model):
        digest.update(repr(change).encode())
    return digest.hexdigest()[:16]


def _changes(model: ModelPatcher) -> Iterator[tuple[Any, ...]]:
    """What was done to a model since it was loaded; with other patches it is another model."""
    for name, patches in sorted(model.patches.items()):
        yield name, len(patches), [patch[0] for patch in patches]
        yield from ((patch[2], patch[3], *_samples(patch[1])) for patch in patches)
    sampling = model.object_patches.get("model_sampling")
    if sampling is not None:
        yield [kind.__name__ for kind in type(sampling).__mro__], *_samples(sampling)
    if model.injections:
        yield ("injections", *sorted(model.injections))


def _samples(value: Any) -> list[list[float]]:
    """Some numbers of each tensor in a patch, an adapter or a noise schedule."""
    if isinstance(value, Tensor):
        numbers = value.detach().flatten()
        return [numbers[:: max(1, len(numbers) // SAMPLED_NUMBERS)].float().cpu().tolist()]
    if isinstance(value, torch.nn.Module):
        return [row for buffer in value.state_dict().values() for row in _samples(buffer)]
    parts = value if isinstance(value, (tuple, list)) else getattr(value, "weights", ())
    return [row for part in parts or () for row in _samples(part)]


def _unpatched(model: ModelPatcher) -> dict[str, Tensor]:
    """The weights by name, without the patches of whichever clone the host has loaded."""
    try:
        return {name: first[0] for name, (first, *_) in model.get_key_patches().items()}
    except AttributeError:
        # Layers of GGUF files list weights that they only compute; their patches are apart.
        return dict(model.model.named_parameters())
