"""Features of pictures and texts, from the host's CLIP vision models and text encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.model_management as management
import torch
from comfy.clip_vision import ClipVisionModel
from comfy.sd import CLIP
from safetensors import safe_open
from torch import Tensor, nn

from ..events import watched
from ..versions import device_context

CHUNK = 8
"""Pictures at once."""


def picture_features(vision: ClipVisionModel, pictures: Tensor) -> Tensor:
    """(n, height, width, 3) in 0..1 to projected image embeddings (n, d), fp32 on the CPU.

    The host prepares pictures as CLIP expects them: shorter side resized, center cropped.
    """
    chunks = pictures.split(CHUNK)
    return torch.cat([encode_pictures(vision, chunk) for chunk in watched(chunks, len(chunks))])


def encode_pictures(vision: ClipVisionModel, pictures: Tensor) -> Tensor:
    """Like `picture_features`, in one batch and without progress."""
    management.throw_exception_if_processing_interrupted()
    embeddings = vision.encode_image(pictures[..., :3])["image_embeds"]
    if embeddings.ndim != 2:
        raise ValueError(
            "This vision model has features of patches and none of the whole image: load "
            "a CLIP vision model such as CLIP-ViT-L."
        )
    return embeddings.float().cpu()


def text_features(clip: CLIP, texts: Sequence[str], width: int) -> Tensor:
    """Projected text embeddings (n, width), fp32 on the CPU; parentheses are plain text.

    A text counts up to CLIP's 77 tokens, as in arXiv 2104.08718. Raises ValueError if the
    embeddings are not as wide as those of pictures, or if the CLIP has no projection.
    """
    _check_projection(clip)
    by_text = {text: _projected(clip, text) for text in dict.fromkeys(texts)}
    embeddings = torch.cat([by_text[text] for text in texts])
    if embeddings.shape[1] != width:
        raise ValueError(
            f"This CLIP makes text embeddings {embeddings.shape[1]} wide and the vision model "
            f"image embeddings {width} wide: load the text encoder and the vision model of one "
            "CLIP."
        )
    return embeddings


def _projected(clip: CLIP, text: str) -> Tensor:
    """Like CLIP.encode_from_tokens, which has no option for the projection."""
    management.throw_exception_if_processing_interrupted()
    tokens = clip.tokenize(text, disable_weights=True)
    model, device = clip.cond_stage_model, clip.load_model(tokens).load_device
    model.reset_clip_options()
    model.set_clip_options({"projected_pooled": True, "execution_device": device})
    try:
        with device_context(device):
            pooled = model.encode_token_weights(tokens)[1]
    finally:
        model.reset_clip_options()
    if pooled is None:
        raise ValueError("This CLIP makes no embedding of a whole text: load a CLIP text encoder.")
    return pooled.float().cpu()


def _check_projection(clip: CLIP) -> None:
    """Raise ValueError for a CLIP whose file lacks the projection."""
    # The host leaves a missing projection uninitialized. An encoder whose pooled output the host
    # projects has one; for another, such as SD1.5's, look into the file that it came from.
    clip.cond_stage_model.reset_clip_options()
    encoder = _pooling_encoder(clip.cond_stage_model)
    if getattr(encoder, "return_projected_pooled", False) or _in_files(_files(clip)):
        return
    raise ValueError(
        "This CLIP has no text projection, which checkpoints leave out: connect one from Load "
        "CLIP with a file of the whole text encoder, such as clip_l.safetensors."
    )


def _pooling_encoder(model: nn.Module) -> nn.Module | None:
    """The CLIP encoder whose pooled output the host takes: SDXL's is clip_g."""
    encoders = {
        name: module
        for name, module in model.named_modules()
        if hasattr(getattr(module, "transformer", None), "text_projection")
    }
    return encoders.get("clip_g") or next(iter(encoders.values()), None)


def _files(clip: CLIP) -> list[Path]:
    """The files from which the host loaded the CLIP, if it remembers."""
    origin: Any = getattr(clip.patcher, "cached_patcher_init", None)
    if not origin:
        return []
    paths = origin[1][0]
    return [Path(path) for path in ([paths] if isinstance(paths, str) else paths)]


def _in_files(paths: Sequence[Path]) -> bool:
    return any(_holds_projection(path) for path in paths if path.suffix == ".safetensors")


def _holds_projection(path: Path) -> bool:
    with safe_open(path, "pt") as file:
        keys = list(file.keys())
    return any(key.removesuffix(".weight").endswith("text_projection") for key in keys)
