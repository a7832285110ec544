"""Trains the base model's UNet from nothing: `python -m world.train_base`, in tests/.

It trains on all captions of the training scenes, encoded once (the text encoder is fixed), and
leaves averaged weights in the work folder. Run it again and it goes on from those; `--pack` writes
them as the compact file that is committed. That one took 2,370 steps and 40 minutes of a machine
with two busy cores; until step 1,100 the colors come, from there to step 1,500 the shapes.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import sprites
from .base import COMPACT, base_unet, write_base
from .checkpoints import load_short
from .codec import latents_of
from .compact import pack
from .host import use_host
from .start import start_weights

BATCH = 16
PEAK_RATE = 7e-4
WARM_UP = 100
EMA = 0.998
CAPTION_DROPOUT = 0.1
HIGHEST_WEIGHT = 25.0
AVERAGED = "averaged.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The work folder and the length; the rate falls to zero by whichever end comes first."""

    folder: Path
    steps: int
    minutes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """What is trained on: scenes, and captions [scene, opening] as fp16 text conditioning."""

    scenes: list[sprites.Scene]
    conditioning: Tensor  # (scenes, openings, 77, 768)
    empty: Tensor  # (77, 768)


def encode_world(folder: Path) -> World:
    """Encode every caption of the training scenes with the base's text encoder, once."""
    scenes = sprites.split_scenes()[0]
    cache = folder / "conditioning.safetensors"
    if not cache.exists():
        short = folder / "short.safetensors"
        # The text encoder is all that is needed of it: the UNet's weights stay holes.
        write_base(short, base_unet("meta").state_dict(), short=True)
        _, clip, _ = load_short(short)
        texts = [opening + scene.caption for scene in scenes for opening in sprites.OPENINGS]
        rows = encode(clip, texts).unflatten(0, (len(scenes), len(sprites.OPENINGS)))
        save_file({"rows": rows, "empty": encode(clip, [""])[0].clone()}, cache)
    stored = load_file(cache)
    return World(scenes=scenes, conditioning=stored["rows"], empty=stored["empty"])


def encode(clip, texts: list[str]) -> Tensor:
    """The host's conditioning of captions, (captions, 77, 768) fp16."""
    rows = []
    with torch.inference_mode(False), torch.no_grad():
        for first in range(0, len(texts), 64):
            # The host encodes the parts of a long prompt as one batch and puts them in a row.
            parts = [clip.tokenize(text)["l"][0] for text in texts[first : first + 64]]
            row = clip.encode_from_tokens({"l": parts})
            rows.append(row.view(len(parts), 77, -1).half())
    return torch.cat(rows)


class Batches:
    """Endless batches of latents and conditioning, drawn by a generator of their own."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Latents (batch, 4, 8, 8) and conditioning (batch, 77, 768)."""
        world, generator = self.world, self.generator
        picked = torch.randint(len(world.scenes), (BATCH,), generator=generator)
        openings = torch.randint(world.conditioning.shape[1], (BATCH,), generator=generator)
        pixels = torch.stack([sprites.draw(world.scenes[i], generator) for i in picked.tolist()])
        rows = world.conditioning[picked, openings].float()
        rows[torch.rand(BATCH, generator=generator) < CAPTION_DROPOUT] = world.empty.float()
        return self.latents(pixels), rows

    def latents(self, pixels: Tensor) -> Tensor:
        """Latents (n, 4, 8, 8) of pixels (n, 64, 64, 3)."""
        return latents_of(pixels)


def noise_levels() -> Tensor:
    """The cumulated alphas of SD1.5's thousand steps, from the host."""
    from comfy.model_sampling import ModelSamplingDiscrete

    return 1 / (ModelSamplingDiscrete().sigmas.float() ** 2 + 1)


def loss_of(
    unet: nn.Module,
    latents: Tensor,
    rows: Tensor,
    alphas: Tensor,
    generator,
    precision: torch.dtype = torch.bfloat16,
) -> Tensor:
    """The noise-prediction error, weighted up where much noise hides what is to be drawn.

    Processors without bf16 of their own are ten times slower in it than in fp32.
    """
    steps = torch.randint(1000, (len(latents),), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    alpha = alphas[steps].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    guess = predict(unet, noisy, steps.float(), rows, precision)
    error = (guess - noise).square().mean((1, 2, 3))
    # 1 + sigma^2 weighs as an error of the velocity does; the cap keeps the noisiest steps tame.
    weight = (1 / alpha.flatten()).clamp(max=HIGHEST_WEIGHT)
    return (weight * error).mean()


def predict(
    unet: nn.Module, noisy: Tensor, times: Tensor, rows: Tensor, precision: torch.dtype
) -> Tensor:
    """What the UNet says of noisy latents, under autograd, in fp32."""
    from comfy.ldm.modules.attention import attention_pytorch

    options = {
        "optimized_attention_override": lambda _, *args, **kw: attention_pytorch(*args, **kw)
    }
    with torch.autocast("cpu", precision, enabled=precision is not torch.float32):
        return unet(noisy, times, context=rows, transformer_options=options).float()


def rate_at(progress: float, step: int) -> float:
    """Warm-up, then half a cosine down to zero."""
    return PEAK_RATE * min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * min(1, progress))) / 2


def train(run: Run) -> None:
    """Train to the end of the run, saving every five minutes."""
    world, alphas = encode_world(run.folder), noise_levels()
    unet = base_unet()
    left = run.folder / AVERAGED
    averaged = load_file(left) if left.exists() else start_weights(world.empty)
    unet.load_state_dict(averaged)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=0, betas=(0.9, 0.99), fused=True)
    batches, generator = Batches(world, 1), torch.Generator().manual_seed(2)
    began, saved, step, total = time.monotonic(), time.monotonic(), 0, 0.0
    progress = 0.0
    while progress < 1:
        if step % 25 == 0:
            share_the_machine()
        for group in optimizer.param_groups:
            group["lr"] = rate_at(progress, step)
        loss = loss_of(unet, *batches.draw(), alphas, generator)
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        keep = min(EMA, (1 + step) / (10 + step))
        for key, value in unet.state_dict().items():
            averaged[key].lerp_(value, 1 - keep)
        step, total = step + 1, total + loss.item()
        minutes = (time.monotonic() - began) / 60
        progress = max(step / run.steps, minutes / run.minutes)
        if step % 50 == 0:
            sys.stdout.write(f"{step} {minutes:.1f} min, loss {total / 50:.4f}\n")
            sys.stdout.flush()
            total = 0.0
        if time.monotonic() - saved > 240 or progress >= 1:
            save_file(averaged, run.folder / "part")
            os.replace(run.folder / "part", left)
            saved = time.monotonic()


def share_the_machine() -> None:
    """Use two cores only while nobody else needs one."""
    others = os.getloadavg()[0] - torch.get_num_threads()
    torch.set_num_threads(2 if others < 0.6 else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "pivotal-world")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--pack", action="store_true")
    arguments = parser.parse_args()
    use_host()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.pack:
        save_file(pack(load_file(arguments.folder / AVERAGED)), COMPACT)
        return
    train(Run(folder=arguments.folder, steps=arguments.steps, minutes=arguments.minutes))


if __name__ == "__main__":
    main()
