"""What many test files need: LoRAs, bundles, pictures, and whether two results are the same."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pack.bundles.bundle import Bundle, Entry

Tensors = Mapping[str, Tensor]
WIDTHS = {"clip_l": 768, "clip_g": 1280, "clip_h": 1024, "t5xxl": 4096, "qwen3_4b": 2560}
CAPTIONS = ["a picture of TOK", "TOK on grass", "a hill", "TOK at night"]
ENCODERS = {
    "sd15": ("clip_l",),
    "sd2": ("clip_h",),
    "sdxl": ("clip_l", "clip_g"),
    "flux": ("clip_l", "t5xxl"),
    "zimage": ("qwen3_4b",),
}


def random_vectors(family: str, seed: int, count: int = 2) -> dict[str, Tensor]:
    """Vectors (count, width) for each encoder of a family, as long as those of words."""
    rng = torch.Generator().manual_seed(seed)
    widths = {key: WIDTHS[key] for key in ENCODERS[family]}
    return {key: 0.02 * torch.randn(count, width, generator=rng) for key, width in widths.items()}


def lora(
    layers: Mapping[str, Sequence[int]],
    *,
    rank: int = 4,
    alpha: float | None = None,
    seed: int = 0,
    size: float = 1.0,
) -> dict[str, Tensor]:
    """Random factors for layers of these shapes, (out, in) or with a kernel's sides after them."""
    rng = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, (rows, *columns) in layers.items():
        kernel = [1] * (len(columns) - 1)
        found[f"{name}.lora_up.weight"] = size * torch.randn(rows, rank, *kernel, generator=rng)
        found[f"{name}.lora_down.weight"] = size * torch.randn(rank, *columns, generator=rng)
        if alpha is not None:
            found[f"{name}.alpha"] = torch.tensor(float(alpha))
    return found


def bundle(
    *names: str,
    family: str = "sd15",
    lora: Tensors | None = None,
    seed: int = 0,
    count: int = 2,
    **entry: str,
) -> Bundle:
    """A bundle with random vectors for each name; `entry` is what its index says of each."""
    return Bundle(
        family=family,
        lora=lora or {},
        embeddings={
            name: random_vectors(family, seed + place, count) for place, name in enumerate(names)
        },
        entries=tuple(Entry(name=name, **entry) for name in names) if entry else (),
    )


def tensors(made: Bundle) -> dict[str, Tensor]:
    """Everything that a bundle holds, under one name each."""
    found = {f"lora.{key}": tensor for key, tensor in made.lora.items()}
    for kind in ("embeddings", "outputs"):
        for name, vectors in getattr(made, kind).items():
            found |= {f"{kind}.{name}.{key}": rows for key, rows in vectors.items()}
    return found


def same(left: Bundle | Tensors, right: Bundle | Tensors) -> bool:
    """Whether both hold the same tensors: the same names, types and bits."""
    one, other = (tensors(x) if isinstance(x, Bundle) else x for x in (left, right))
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one
    )


def write_pictures(folder: Path, captions: Sequence[str], size: tuple[int, int] = (64, 64)) -> str:
    """A flat picture for each caption, "" for none; return the name of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, caption in enumerate(captions):
        color = (60 * number % 256, (200 - 40 * number) % 256, 90)
        Image.new("RGB", size, color).save(folder / f"{number}.png")
        if caption:
            (folder / f"{number}.txt").write_text(caption, encoding="utf-8")
    return folder.name


def grain(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Noise in gray. Pillow's own continues from wherever it was left in this process."""
    noise = Image.frombytes("L", size, rng.randbytes(size[0] * size[1]))
    return Image.blend(Image.new("L", size, 128), noise, 0.8).convert("RGB")
