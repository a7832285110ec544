"""The base model, two models trained further from it, and pictures that it draws itself."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pack.training.dataset.folder.read import read_folder
from pack.training.dataset.records import Dataset
from world import sprites, train_base
from world.base import COMPACT, base_unet, write_base
from world.checkpoints import load_short
from world.codec import latents_of
from world.compact import unpack
from world.concepts import Picture, write_folder
from world.sampling import Models, sample

SCENES = 400
"""How many training scenes the further training uses."""
STEPS, RATE, FADE = 100, 2e-4, 0.25
SECOND = f"second_{STEPS}_{RATE:g}_{FADE:g}"
FLOW_STEPS, FLOW_RATE = 600, 3e-4
FLOW = f"flow_{FLOW_STEPS}_{FLOW_RATE:g}"
REMEMBERED, REMEMBERED_SEED = 64, 777
Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
"""From a UNet, latents (n, 4, 8, 8), conditioning (n, 77, 768) and a generator."""


@cache
def load_base(folder: Path) -> Models:
    """The base of the sprite world; its text encoder keeps only the layers that are not zero."""
    return _load(folder / "base.safetensors", lambda: unpack(load_file(COMPACT)))


@cache
def load_second(folder: Path) -> Models:
    """The second base, which draws in faded colors; trained in minutes on first use."""

    def make() -> dict[str, Tensor]:
        alphas = train_base.noise_levels()

        def loss(unet: nn.Module, latents: Tensor, rows: Tensor, rng: torch.Generator) -> Tensor:
            return train_base.loss_of(unet, latents, rows, alphas, rng, torch.float32)

        batches = FadedBatches(some_scenes(load_base(folder)[1]), 5)
        return fine_tune(batches, loss, STEPS, RATE)

    return _load(folder / f"{SECOND}.safetensors", make)


@cache
def load_flow(folder: Path) -> Models:
    """The base as a flow model (Lipman et al. 2022, arXiv 2210.02747), sampled like the host's SD3.

    Trained in about a quarter of an hour on first use.
    """
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    def make() -> dict[str, Tensor]:
        batches = train_base.Batches(some_scenes(load_base(folder)[1]), 5)
        return fine_tune(batches, flow_loss, FLOW_STEPS, FLOW_RATE)

    model, clip, vae = _load(folder / f"{FLOW}.safetensors", make)
    return ModelSamplingSD3().patch(model, shift=1.0)[0], clip, vae


def _load(path: Path, unet: Callable[[], dict[str, Tensor]]) -> Models:
    """Load a checkpoint; if it does not exist, `unet` makes the UNet's weights for it."""
    if not path.exists():
        part = path.with_suffix(".part")
        write_base(part, unet(), short=True)
        os.replace(part, path)
    with torch.inference_mode():
        return load_short(path)


def flow_loss(unet: nn.Module, latents: Tensor, rows: Tensor, rng: torch.Generator) -> Tensor:
    """The squared error of the predicted noise minus picture, at uniform positions between them."""
    position = torch.rand(len(latents), generator=rng)
    noise = torch.randn(latents.shape, generator=rng)
    noisy = latents.lerp(noise, position.view(-1, 1, 1, 1))
    guess = train_base.predict(unet, noisy, 1000 * position, rows, torch.float32)
    return (guess - (noise - latents)).square().mean()


def fine_tune(
    batches: train_base.Batches, loss_of: Loss, steps: int, rate: float
) -> dict[str, Tensor]:
    """Train the base's UNet further, with twenty steps of warm-up; returns all of its weights."""
    unet = base_unet()
    unet.load_state_dict(unpack(load_file(COMPACT)))
    optimizer = torch.optim.AdamW(unet.parameters(), lr=rate, betas=(0.9, 0.99), fused=True)
    rng = torch.Generator().manual_seed(6)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20)
        loss = loss_of(unet, *batches.draw(), rng)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 25 == 0:
            sys.stdout.write(f"further training: step {step} of {steps}, loss {loss.item():.4f}\n")
            sys.stdout.flush()
    return {key: value.detach() for key, value in unet.state_dict().items()}


def some_scenes(clip: object) -> train_base.World:
    """Some training scenes, with their captions encoded."""
    scenes = sprites.split_scenes()[0]
    order = torch.randperm(len(scenes), generator=torch.Generator().manual_seed(4))[:SCENES]
    chosen = [scenes[i] for i in order.tolist()]
    rows = train_base.encode(clip, [scene.caption for scene in chosen])
    empty = train_base.encode(clip, [""])[0]
    return train_base.World(scenes=chosen, conditioning=rows[:, None], empty=empty)


class FadedBatches(train_base.Batches):
    """Batches of the sprite world with every color moved towards gray."""

    def latents(self, pixels: Tensor) -> Tensor:
        # -> (n, 4, 8, 8)
        return latents_of(torch.lerp(pixels, torch.tensor(0.5), FADE))


def base_pictures(base: Models, folder: Path) -> Dataset:
    """Pictures that the base drew for scenes it was trained on: the class pictures of a prior."""
    place = folder / f"remembered_{REMEMBERED}_{REMEMBERED_SEED}"
    if not place.exists():
        scenes = random.Random(REMEMBERED_SEED).sample(sprites.split_scenes()[0], REMEMBERED)
        captions = [scene.caption for scene in scenes]
        pixels = sample(base, captions, first_seed=REMEMBERED_SEED).clamp(0, 1)
        drawn = [Picture(pixels=p, caption=c) for p, c in zip(pixels, captions, strict=True)]
        part = place.with_suffix(".part")
        write_folder(drawn, part)
        os.replace(part, place)
    return read_folder(place)
