"""DoRA of PEFT as a patch of the host: the rows of a changed weight get lengths of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from comfy.weight_adapter.lora import LoRAAdapter
from torch import Tensor

from ....bundles.layers.peft_keys import magnitude_layer


class PeftDora(LoRAAdapter):
    """W' = m (W + s B A) / |W + s B A|, a length m for each output (arXiv 2402.09353, eq. 5).

    Below a strength of 1 the weight lies on the line from W to W', as with the host's own DoRA.
    """

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Callable[[Tensor], Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """The host's own arithmetic, with lengths in its form for the weight that it gives."""
        up, down, alpha, mid, lengths, reshape = self.weights
        plain = LoRAAdapter(self.loaded_keys, (up, down, alpha, mid, None, reshape))
        rest = (strength_model, offset, function, *args)
        changed = plain.calculate_weight(weight.clone(), key, 1.0, *rest, **kwargs)
        column = (-1, *[1] * (weight.ndim - 1))
        own = function(lengths.to(weight.device, torch.float32).reshape(column))
        scale = own * _divisor(weight).reshape(column) / _norms(changed.float()).reshape(column)
        host = LoRAAdapter(self.loaded_keys, (up, down, alpha, mid, scale, reshape))
        return host.calculate_weight(weight, key, strength, *rest, **kwargs)


def _divisor(weight: Tensor) -> Tensor:
    """What the host divides lengths of outputs by, in the precision in which it does."""
    return (_norms(weight) + torch.finfo(weight.dtype).eps).float()


def _norms(weight: Tensor) -> Tensor:
    """The Euclidean norm of each row, (out,); a row of zeros can have no other length."""
    return weight.flatten(1).norm(dim=1).clamp_min(torch.finfo(weight.dtype).tiny)


def as_scales(lora: Mapping[str, Tensor]) -> dict[str, str]:
    """The name under which the host's loader hands on each tensor, by the tensor's own.

    Lengths of PEFT go by the name of the host's own DoRA, and `with_lengths` tells them apart.
    """
    layers = {key: magnitude_layer(key) for key in lora}
    named = {key: f"{layer}.dora_scale" if layer else key for key, layer in layers.items()}
    return {key: name if name == key or name not in lora else key for key, name in named.items()}


def with_lengths(patches: Mapping[Any, Any], lora: Mapping[str, Tensor]) -> dict[Any, Any]:
    """The host's patches, those with lengths of PEFT among them as `PeftDora`."""
    lengths = {id(tensor): key for key, tensor in lora.items() if magnitude_layer(key)}
    return {target: _own(patch, lengths) for target, patch in patches.items()}


def _own(patch: Any, lengths: Mapping[int, str]) -> Any:
    if not isinstance(patch, LoRAAdapter) or id(patch.weights[4]) not in lengths:
        return patch
    up, magnitude = patch.weights[0], patch.weights[4]
    if magnitude.numel() != up.shape[0]:
        raise ValueError(
            f"{lengths[id(magnitude)]} holds {magnitude.numel()} lengths for {up.shape[0]} "
            "outputs: the file is damaged, copy it again."
        )
    return PeftDora(patch.loaded_keys, patch.weights)
