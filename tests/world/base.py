"""The base model of the sprite world: an SD1.5 checkpoint built from one compact file and seeds."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from .checkpoints import SD15, clip_as_saved, is_dead, unet_module
from .codec import codec_weights
from .compact import unpack
from .holes import write_with_holes
from .words import LIVE_LAYERS, text_weights

COMPACT = Path(__file__).parent / "base_unet.safetensors"
OUTPUT_DEPTHS = (1, 1)


def build_base(path: Path) -> None:
    """Write the whole checkpoint for CheckpointLoaderSimple; two seconds, 180 MB on the disk."""
    write_base(path, unpack(load_file(COMPACT)))


def write_base(path: Path, unet: dict[str, Tensor], *, short: bool = False) -> None:
    """Write a checkpoint around UNet weights; a short one is for `checkpoints.load_short`."""
    tensors = {f"model.diffusion_model.{key}": value for key, value in unet.items()}
    text = {
        f"clip_l.transformer.{key}": value
        for key, value in text_weights().items()
        if not (short and is_dead(key, LIVE_LAYERS))
    }
    write_with_holes(path, tensors | codec_weights() | clip_as_saved(SD15, text))


def base_unet(device: str = "cpu") -> torch.nn.Module:
    """The base's UNet with unset weights: a transformer on the way in and two on the way out."""
    return unet_module(SD15, output_depths=OUTPUT_DEPTHS, device=device)
