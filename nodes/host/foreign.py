"""What the user's own nodes put on a layer, made fit for autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

COMPILED = "torch.compile"
"""The host's key for what its TorchCompileModel puts on a MODEL."""


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


def differentiable_attention(_: Any, *args: Any, **kwargs: Any) -> Tensor:
    """torch's own attention: some that the host can be started with have no gradient."""
    return attention_pytorch(*args, **kwargs)


def run_uncompiled(clone: ModelPatcher) -> None:
    """Take torch.compile off a clone that is to train; the MODEL it comes from keeps it.

    A compiled graph has the weights kept for backward, which torch refuses for what the host
    has loaded under inference mode. Nodes compile the whole model by a wrapper of the host's,
    or single blocks by patching a compiled module over each.
    """
    clone.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILED)
    patches = clone.object_patches.items()
    clone.object_patches = {
        name: patch for name, patch in patches if not hasattr(patch, "_orig_mod")
    }
