"""The user's own patches on a model, made fit for training."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import merge_nested_dicts
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

SHORTCUTS = ("torch.compile", "easycache", "lazycache")
"""The host's keys of wrappers that make sampling faster."""

POSITIVE = {"cond_or_uncond": [0], "uuids": [uuid.uuid4()]}
"""What the host's sampler passes to patches for a batch of one positive prompt."""


class _NormalTensors(TorchFunctionMode):
    """Copies tensors that were made in inference mode, which autograd refuses to save."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Frozen layers run their operators without a graph, so no base weight is copied.
        if torch.is_grad_enabled():
            args, kwargs = tree_map(_normal, (args, kwargs))
        return func(*args, **kwargs)


def _normal(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def recordable(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same forward, which autograd can record even if its weights are from inference mode."""

    def run(*args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        with _NormalTensors():
            return forward(*args, **kwargs)

    return run


def transformer_options(patcher: ModelPatcher, sigma: Tensor) -> dict[str, Any]:
    """The user's options, patches and wrappers with what the sampler would add.

    Attention is replaced by one that has a gradient.
    """
    options = {**patcher.model_options.get("transformer_options", {})}
    wrappers = merge_nested_dicts(options.get("wrappers", {}), patcher.wrappers)
    return {
        **options,
        **POSITIVE,
        "wrappers": wrappers,
        "sigmas": sigma,
        "optimized_attention_override": differentiable_attention,
    }


def differentiable_attention(_: Any, *args: Any, **kwargs: Any) -> Tensor:
    """torch's own attention; some of those that the host offers have no gradient."""
    return attention_pytorch(*args, **kwargs)


def remove_shortcuts(clone: ModelPatcher) -> None:
    """Remove compilers and caches from a clone before training; the user's MODEL keeps them."""
    # A compiled graph saves weights for backward, which torch refuses if the host loaded them in
    # inference mode. A cache returns the output of the sampler's step before, and training has
    # no such step. Nodes compile the whole model by a wrapper of the host, or single blocks by
    # patching a compiled module over each.
    for wrappers in clone.wrappers.values():
        for key in SHORTCUTS:
            wrappers.pop(key, None)
    patches = clone.object_patches.items()
    clone.object_patches = {
        name: patch for name, patch in patches if not hasattr(patch, "_orig_mod")
    }
