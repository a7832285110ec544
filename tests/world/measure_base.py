"""Measures the base model on held-out prompts: `python -m world.measure_base`, in tests/.

It builds the checkpoint from the compact file, loads and samples it by the host's own nodes, lets
the judge count and writes base.json and, with --grid, a picture of all samples.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .base import COMPACT, build_base
from .host import use_host
from .judge import judge
from .sprites import PLACES, Scene, held_out_scenes

RESULT = Path(__file__).parent / "base.json"
STEPS = 20
CFG = 3.0
SAMPLER, SCHEDULER = "euler", "normal"


def load_base(path: Path) -> tuple[object, object, object]:
    """Return (model, clip, vae) of a checkpoint through the host's CheckpointLoaderSimple."""
    import folder_paths

    import nodes

    folder_paths.add_model_folder_path("checkpoints", str(path.parent))
    return nodes.CheckpointLoaderSimple().load_checkpoint(path.name)


def sample(model, clip, vae, prompts: Sequence[str], *, first_seed: int = 0) -> Tensor:
    """Pictures (n, 64, 64, 3), one a prompt, by KSampler with a seed of its own each."""
    import nodes

    negative = nodes.CLIPTextEncode().encode(clip, "")[0]
    pictures = []
    for seed, prompt in enumerate(prompts, start=first_seed):
        positive = nodes.CLIPTextEncode().encode(clip, prompt)[0]
        latent = nodes.EmptyLatentImage().generate(64, 64)[0]
        done = nodes.KSampler().sample(
            model, seed, STEPS, CFG, SAMPLER, SCHEDULER, positive, negative, latent, 1.0
        )[0]
        pictures.append(nodes.VAEDecode().decode(vae, done)[0])
    return torch.cat(pictures)


def count(pictures: Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
    """Shares from 0 to 1 of pictures that show what their scenes say."""
    verdicts = [judge(picture) for picture in pictures]
    pairs = list(zip(verdicts, scenes, strict=True))
    hits = {
        "shape": [v.shape == s.shape for v, s in pairs],
        "color": [v.color == s.color for v, s in pairs],
        "background": [v.background == s.background for v, s in pairs],
        "place": [v.place == PLACES[s.place] for v, s in pairs],
    }
    # The place is told apart: the bar is about shape, color and background.
    hits["all"] = [all(row) for row in zip(*list(hits.values())[:3], strict=True)]
    return {name: sum(values) / len(pairs) for name, values in hits.items()}


def save_grid(pictures: Tensor, path: Path, *, columns: int = 20) -> None:
    """Write all pictures side by side as one png."""
    padded = torch.nn.functional.pad(pictures.movedim(-1, 1), (2, 2, 2, 2), value=0.5)
    rows = [torch.cat(list(row), -1) for row in padded.split(columns)]
    rows = [torch.nn.functional.pad(row, (0, rows[0].shape[-1] - row.shape[-1])) for row in rows]
    pixels = torch.cat(rows, -2).movedim(0, -1).clamp(0, 1)
    Image.fromarray((pixels * 255).round().to(torch.uint8).numpy()).save(path)


def measure(path: Path, number: int) -> tuple[dict[str, float], Tensor]:
    """Sample `number` held-out scenes from a checkpoint and count."""
    scenes = held_out_scenes()[:number]
    with torch.inference_mode():
        model, clip, vae = load_base(path)[:3]
        pictures = sample(model, clip, vae, [scene.caption for scene in scenes])
    return count(pictures, scenes), pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--checkpoint", type=Path, help="another file; nothing is recorded then")
    parser.add_argument("--grid", type=Path, help="where to write a picture of the samples")
    arguments = parser.parse_args()
    use_host()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.checkpoint or Path(folder) / "sprites.safetensors"
        if not arguments.checkpoint:
            build_base(path)
        shares, pictures = measure(path, arguments.number)
    settings = {"sampler": SAMPLER, "scheduler": SCHEDULER, "steps": STEPS, "cfg": CFG}
    digest = {"unet_sha256": hashlib.sha256(COMPACT.read_bytes()).hexdigest()}
    record = {"prompts": arguments.number, **settings, **shares}
    text = json.dumps(record if arguments.checkpoint else record | digest, indent=2) + "\n"
    sys.stdout.write(text)
    if not arguments.checkpoint and arguments.number == 200:
        RESULT.write_text(text, encoding="utf-8")
    if arguments.grid:
        save_grid(pictures, arguments.grid)


if __name__ == "__main__":
    main()
