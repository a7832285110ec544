"""Digests that tell the weights of models apart: of what files hold and patches add, no more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .unfilled import unfilled

SAMPLED_NUMBERS = 64
CONSTANT = ".logit_scale"
"""The end of a parameter's name that files may lack, and that the host sets to the same number."""


def model_digest(model: ModelPatcher) -> str:
    """A digest of a MODEL's weights and patches: names, shapes and some numbers of each tensor.

    Parameters that no file fills are left out, since their numbers are those of old memory.
    """
    return _digest(model, _unpatched(model, unfilled(model)))


def earlier_digests(model: ModelPatcher) -> tuple[set[str], bool]:
    """What versions before 0.2 made of the same weights, and whether they are sure to have.

    Those versions read every tensor. Where no file fills one, it may have had any numbers, most
    often zeros.
    """
    weights = _unpatched(model, frozenset())
    blank = {name for name in unfilled(model) if not name.endswith(CONSTANT)}
    zeros = {n: torch.zeros_like(t) if n in blank else t for n, t in weights.items()}
    return {_digest(model, weights), _digest(model, zeros)}, not blank


def _digest(model: ModelPatcher, weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    # Only some numbers, because reading all of a large model takes longer than a training step.
    for name, tensor in sorted(weights.items()):
        numbers = tensor.detach().flatten()[:SAMPLED_NUMBERS].float().cpu().tolist()
        digest.update(repr((name, tuple(tensor.shape), numbers)).encode())
    for change in _changes(model):
        digest.update(repr(change).encode())
    return digest.hexdigest()[:16]


def _changes(model: ModelPatcher) -> Iterator[tuple[Any, ...]]:
    """What was done to a model since it was loaded; with other patches it is another model."""
    for name, patches in sorted(model.patches.items()):
        yield name, len(patches), [patch[0] for patch in patches]
        yield from ((patch[2], patch[3], *samples(patch[1])) for patch in patches)
    sampling = model.object_patches.get("model_sampling")
    if sampling is not None:
        yield [kind.__name__ for kind in type(sampling).__mro__], *samples(sampling)
    if model.injections:
        yield ("injections", *sorted(model.injections))


def samples(value: Any) -> list[list[float]]:
    """Some numbers of each tensor in a patch, an adapter or a noise schedule."""
    if isinstance(value, Tensor):
        numbers = value.detach().flatten()
        return [numbers[:: max(1, len(numbers) // SAMPLED_NUMBERS)].float().cpu().tolist()]
    if isinstance(value, torch.nn.Module):
        return [row for buffer in value.state_dict().values() for row in samples(buffer)]
    parts = value if isinstance(value, (tuple, list)) else getattr(value, "weights", ())
    return [row for part in parts or () for row in samples(part)]


def _with_original(weights: dict[str, Tensor], place: str, original: Any) -> dict[str, Tensor]:
    own = original.state_dict() if isinstance(original, torch.nn.Module) else {}
    kept = {n: t for n, t in weights.items() if n != place and not n.startswith(f"{place}.")}
    return kept | {f"{place}.{name}": tensor for name, tensor in own.items()}


def _unpatched(model: ModelPatcher, without: frozenset[str]) -> dict[str, Tensor]:
    """The weights by name, without the patches of whichever clone the host has loaded."""
    try:
        weights = {name: first[0] for name, (first, *_) in model.get_key_patches().items()}
        # While a clone is loaded, objects that it replaces stand in the model for all of them.
        for place, original in model.object_patches_backup.items():
            weights = _with_original(weights, place, original)
    except AttributeError:
        # Layers of GGUF files list weights that they only compute; their patches are apart.
        weights = dict(model.model.named_parameters())
    return {name: tensor for name, tensor in weights.items() if name not in without}
