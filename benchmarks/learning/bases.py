"""The base model, and a second one that was made by training the first on another look."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from world import sprites, train_base
from world.base import COMPACT, base_unet, write_base
from world.checkpoints import load_short
from world.codec import latents_of
from world.compact import unpack
from world.sampling import Models

STEPS, RATE, SCENES = 100, 2e-4, 400
FADE = 0.25
SECOND = f"second_{STEPS}_{RATE:g}_{FADE:g}"


def load_base(folder: Path) -> Models:
    """The base of the sprite world; its text encoder is cut to the layers that are not zero."""
    return _load(folder / "base.safetensors", unpack(load_file(COMPACT)))


def load_second(folder: Path) -> Models:
    """The second base, which draws in faded colors; made in minutes when it is not there."""
    weights = folder / f"{SECOND}_unet.safetensors"
    if not weights.exists():
        trained = fine_tune(load_base(folder)[1])
        part = weights.with_suffix(".part")
        save_file(trained, part)
        os.replace(part, weights)
    return _load(folder / f"{SECOND}.safetensors", load_file(weights))


def _load(path: Path, unet: dict[str, Tensor]) -> Models:
    if not path.exists():
        write_base(path, unet, short=True)
    with torch.inference_mode():
        return load_short(path)


def fine_tune(clip: object) -> dict[str, Tensor]:
    """All weights of the UNet after `STEPS` steps on pictures a quarter of the way to gray."""
    unet = base_unet()
    unet.load_state_dict(unpack(load_file(COMPACT)))
    optimizer = torch.optim.AdamW(unet.parameters(), lr=RATE, betas=(0.9, 0.99), fused=True)
    batches, chance = FadedBatches(faded_world(clip), 5), torch.Generator().manual_seed(6)
    alphas = train_base.noise_levels()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 20)
        loss = train_base.loss_of(unet, *batches.draw(), alphas, chance, torch.float32)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 25 == 0:
            sys.stdout.write(f"second base: step {step} of {STEPS}, loss {loss.item():.4f}\n")
            sys.stdout.flush()
    return {key: value.detach() for key, value in unet.state_dict().items()}


def faded_world(clip: object) -> train_base.World:
    """Some training scenes and their captions without an opening."""
    scenes = sprites.split_scenes()[0]
    picked = torch.randperm(len(scenes), generator=torch.Generator().manual_seed(4))[:SCENES]
    chosen = [scenes[i] for i in picked.tolist()]
    rows = train_base.encode(clip, [scene.caption for scene in chosen])
    empty = train_base.encode(clip, [""])[0]
    return train_base.World(scenes=chosen, conditioning=rows[:, None], empty=empty)


class FadedBatches(train_base.Batches):
    """Batches of the sprite world with all colors nearer to gray."""

    def latents(self, pixels: Tensor) -> Tensor:
        """Latents (n, 4, 8, 8) of faded pixels."""
        return latents_of(torch.lerp(pixels, torch.tensor(0.5), FADE))
