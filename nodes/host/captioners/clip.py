"""Captions from a CLIP that can see pictures and write text, such as Qwen3-VL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_management as management
import torch
from comfy.sd import CLIP
from comfy.sd1_clip import SDClipModel
from PIL import Image, ImageOps

from ....training.dataset.captioning.ask import Asking, Captioner
from ..digests import model_digest
from ..images import as_image
from .damage import explained


class ClipCaptioner:
    """A CLIP such as Qwen3-VL or Gemma 3; the host generates for one picture at a time."""

    follows_instructions = True

    def __init__(self, clip: CLIP):
        check_sees(clip)
        self._clip = clip
        self._square = _crops_to_square(clip)
        self.name = type(clip.cond_stage_model).__name__
        self.identity = f"{self.name} {model_digest(clip.patcher)}"

    def caption(
        self, pictures: Sequence[Image.Image], asking: Asking, seeds: Sequence[int]
    ) -> list[str]:
        pairs = zip(pictures, seeds, strict=True)
        with explained(self.name):
            return [self._answer(picture, asking, seed) for picture, seed in pairs]

    def _answer(self, picture: Image.Image, asking: Asking, seed: int) -> str:
        management.throw_exception_if_processing_interrupted()
        if self._square:
            # These encoders cut off the ends of a wide or tall picture.
            side = max(picture.size)
            picture = ImageOps.pad(picture, (side, side), color="white")
        tokens = tokenized(self._clip, asking.prompt or "Describe this picture.", picture)
        sampling = asking.temperature > 0
        ids = self._clip.generate(
            tokens,
            do_sample=sampling,
            max_length=asking.max_tokens,
            temperature=asking.temperature or 1.0,
            top_k=50,
            top_p=0.95,
            repetition_penalty=1.0,
            seed=seed,
        )
        return self._clip.decode(ids)


def tokenized(clip: CLIP, prompt: str, picture: Image.Image) -> Any:
    return clip.tokenize(
        prompt, image=as_image(picture), skip_template=False, thinking=False, min_length=1
    )


def check_sees(clip: CLIP) -> None:
    """Raise ValueError if the encoder cannot write, or if the picture would never reach it."""
    model = clip.cond_stage_model
    name = type(model).__name__
    better = "use Qwen3-VL, Gemma 3 or Gemma 4 in CLIPLoader, or Load Captioner"
    writers = [
        m for m in model.modules() if hasattr(m, "generate") and hasattr(m, "preprocess_embed")
    ]
    if not writers:
        raise ValueError(f"The text encoder {name} cannot describe images: {better}.")
    probe = Image.new("RGB", (64, 64))
    if not any(_is_picture(token) for token in _flat(tokenized(clip, "Describe.", probe))):
        raise ValueError(f"The text encoder {name} silently ignores the image: {better}.")
    generic = [
        m
        for m in model.modules()
        if isinstance(m, SDClipModel)
        and type(m).generate is SDClipModel.generate
        and hasattr(m.transformer, "build_image_inputs")
    ]
    if generic:
        raise ValueError(f"The text encoder {name} ignores positions in the image: {better}.")


def _flat(tokens: Any) -> list[Any]:
    return [token for rows in tokens.values() for row in rows for token in row]


def _is_picture(token: Any) -> bool:
    value = token[0] if isinstance(token, tuple | list) and token else token
    return isinstance(value, dict) or torch.is_tensor(value) and value.ndim > 0


def _crops_to_square(clip: CLIP) -> bool:
    names = {type(module).__name__.lower() for module in clip.cond_stage_model.modules()}
    return any("gemma3" in name or "gemma_3" in name for name in names)


_: type[Captioner] = ClipCaptioner
