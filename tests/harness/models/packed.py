"""Quantized layers as other packs bring them: they keep bytes and cast themselves.

The conventions are those of GGUF loaders: a tensor that tells the shape it stands for and not
that of its bytes, `cast_bias_weight` of the layer's own, and a state dict with a weight that
is only reckoned with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.ops
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from harness.host.runner import Loaded


class PackedTensor(torch.Tensor):
    """Rows of int8 with the fp32 scale of each row behind them, as bytes (outputs, inputs + 4)."""

    stands_for: torch.Size

    def __new__(cls, packed: Tensor, **_: Any) -> PackedTensor:
        return super().__new__(cls, packed)

    def __init__(self, packed: Tensor, *, stands_for: torch.Size):
        super().__init__()
        self.stands_for = stands_for

    def to(self, *args: Any, **kwargs: Any) -> PackedTensor:
        moved = super().to(*args, **kwargs)
        moved.stands_for = self.stands_for
        return moved

    def detach(self) -> PackedTensor:
        return self

    def clone(self, **_: Any) -> PackedTensor:
        return self

    @property
    def shape(self) -> torch.Size:
        return self.stands_for if hasattr(self, "stands_for") else self.size()


def pack(weight: Tensor) -> PackedTensor:
    """A matrix as bytes."""
    scale = weight.float().abs().amax(1, keepdim=True) / 127
    rounded = (weight.float() / scale).round().to(torch.int8)
    bytes_ = torch.cat((rounded.view(torch.uint8), scale.view(torch.uint8)), dim=1)
    return PackedTensor(bytes_, stands_for=weight.shape)


def unpack(packed: PackedTensor, dtype: torch.dtype) -> Tensor:
    """The matrix that the bytes stand for."""
    plain = torch.Tensor(packed.float()).to(torch.uint8)
    rows, scale = plain[:, :-4].contiguous(), plain[:, -4:].contiguous()
    return (rows.view(torch.int8).float() * scale.view(torch.float32)).to(dtype)


class PackedOps(comfy.ops.manual_cast):
    """Linear layers that unpack themselves; all others are the host's."""

    class Linear(comfy.ops.manual_cast.Linear):
        weight: Any
        bias: Any

        def _load_from_state_dict(self, state_dict: Any, prefix: str, *_: Any) -> None:
            self.weight = nn.Parameter(state_dict[f"{prefix}weight"], requires_grad=False)
            bias = state_dict.get(f"{prefix}bias")
            self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

        def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination[f"{prefix}temp.weight"] = torch.empty(self.weight.shape, device="meta")

        def cast_bias_weight(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
            bias = None if self.bias is None else self.bias.to(x.device, x.dtype)
            return unpack(self.weight.to(x.device), x.dtype), bias

        def forward_comfy_cast_weights(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, *self.cast_bias_weight(x))


def load_packed(loaded: Loaded) -> Loaded:
    """The same models with the linear layers of the network packed."""
    network = loaded.model.model.diffusion_model
    linear = {f"{n}.weight" for n, m in network.named_modules() if isinstance(m, nn.Linear)}
    weights = {
        name: pack(weight) if name in linear else weight.clone()
        for name, weight in network.state_dict().items()
    }
    model = comfy.sd.load_diffusion_model_state_dict(
        weights, model_options={"custom_operations": PackedOps}
    )
    assert isinstance(model, ModelPatcher)
    return replace(loaded, model=model)
