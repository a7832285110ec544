"""What the user's own nodes put on a model, made fit for training."""

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
"""The host's keys for what its nodes put on a MODEL to make sampling faster."""

POSITIVE = {"cond_or_uncond": [0], "uuids": [uuid.uuid4()]}
"""What the host's sampler tells patches of a batch that is of one positive prompt."""


class _NormalTensors(TorchFunctionMode):
    """Copies tensors that were made under inference mode, which autograd refuses to keep."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Frozen layers run their own operators without a graph, so no base weight is copied.
        if torch.is_grad_enabled():
            args, kwargs = tree_map(_normal, (args, kwargs))
        return func(*args, **kwargs)


def _normal(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def recordable(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same forward, also where its own weights were loaded under inference mode."""

    def run(*args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        with _NormalTensors():
            return forward(*args, **kwargs)

    return run


def transformer_options(patcher: ModelPatcher, sigma: Tensor) -> dict[str, Any]:
    """The user's options, patches and wrappers, told what the sampler tells them.

    The attention is one that has a gradient.
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
    """torch's own attention: some that the host can be started with have no gradient."""
    return attention_pytorch(*args, **kwargs)


def without_shortcuts(clone: ModelPatcher) -> None:
    """Take compilers and caches off a clone that is to train; the MODEL it comes from keeps them.

    A compiled graph has the weights kept for backward, which torch refuses for what the host
    has loaded under inference mode. Nodes compile the whole model by a wrapper of the host's,
    or single blocks by patching a compiled module over each. A cache gives what the model said
    a step of the sampler before, and training has no such step.
    """
    for wrappers in clone.wrappers.values():
        for key in SHORTCUTS:
            wrappers.pop(key, None)
    patches = clone.object_patches.items()
    clone.object_patches = {
        name: patch for name, patch in patches if not hasattr(patch, "_orig_mod")
    }
