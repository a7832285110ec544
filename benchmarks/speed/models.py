"""The host's models at their real sizes, with random weights and without a file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from world.checkpoints import SD15, SDXL, clip_module, unet_module

SHAPES: dict[str, dict[str, Any]] = {
    "sd15": {
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1] * 9 + [0] * 3,
        "transformer_depth_middle": 1,
        "context_dim": 768,
        "num_heads": 8,
        "num_head_channels": -1,
        "use_linear_in_transformer": False,
    },
    "sdxl": {
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0] * 3 + [2] * 3 + [10] * 3,
        "transformer_depth_middle": 10,
        "context_dim": 2048,
        "num_heads": -1,
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
}
TINY = {"tiny": SD15, "tiny_sdxl": SDXL}


class RandomWeights:
    """State dicts of random weights that share one buffer, so they need no memory of their own."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0)

    def of(self, module: nn.Module) -> dict[str, Tensor]:
        """Fan-in scaled Gaussian matrices, zero biases and unit scales for a meta module."""
        return {key: self._tensor(key, shape) for key, shape in module.state_dict().items()}

    def _tensor(self, key: str, shaped: Tensor) -> Tensor:
        if shaped.ndim < 2:
            return torch.full(shaped.shape, float(key.endswith("weight")))
        if shaped.numel() > self._buffer.numel():
            rng = torch.Generator().manual_seed(0)
            self._buffer = torch.randn(shaped.numel(), generator=rng)
        spread = 0.02 if "embedding" in key else (shaped.numel() / shaped.shape[0]) ** -0.5
        return self._buffer[: shaped.numel()].view(shaped.shape) * spread


def unet(size: str) -> nn.Module:
    """The host's UNet of this size on the meta device."""
    if size in TINY:
        return unet_module(TINY[size])
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    common: dict[str, Any] = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 320,
    }
    common |= {"use_spatial_transformer": True, "legacy": False, "device": "meta"}
    options = common | SHAPES[size]
    return UNetModel(**options, dtype=torch.float32, operations=comfy.ops.disable_weight_init)


def load_model(size: str, dtype: torch.dtype) -> Any:
    """A MODEL as a loader node makes it: under inference mode."""
    with torch.inference_mode():
        return make_model(size, dtype)


def make_model(size: str, dtype: torch.dtype, *, disable_dynamic: bool = False) -> Any:
    """A MODEL that the host can make once more, as it would read a file again."""
    import comfy.sd

    model: Any = comfy.sd.load_diffusion_model_state_dict(
        RandomWeights().of(unet(size)),
        model_options={"dtype": dtype},
        disable_dynamic=disable_dynamic,
    )
    model.cached_patcher_init = (make_model, (size, dtype))
    return model


def load_clip(size: str, dtype: torch.dtype | None, layers: int | None = None) -> Any:
    """A CLIP with full-size encoders; with a dtype of None, in the dtype that the host chooses."""
    import comfy.sd

    names = ["clip_l", "clip_g"] if "sdxl" in size else ["clip_l"]
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    cut = {} if layers is None else {"num_hidden_layers": layers}
    if cut:
        # The host puts this in the place of an encoder's own "<name>_model_config".
        options["model_config"] = dict(cut)
    with torch.inference_mode():
        weights = [RandomWeights().of(clip_module(name, **cut)) for name in names]
        # The tokenizer only reads "embedding:" if it has an embedding folder, even a missing one.
        clip = comfy.sd.load_text_encoder_state_dicts(
            weights, embedding_directory=["none"], model_options=options
        )
    built = [getattr(clip.cond_stage_model, name).num_layers for name in names]
    if layers is not None and set(built) != {layers}:
        raise ValueError(f"The text encoders have {built} layers, not {layers}.")
    return clip
