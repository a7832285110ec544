"""The settings of one contender: a row of the results, and the command line of its process."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields
from typing import Any

LEARNING_RATE = 1e-4
PICTURES = 8
WARM_STEPS = 3
"""Untimed steps: the first is slow, a pivot comes before the second, and during the last one
tensors and calls are counted, which itself takes time and memory."""
WORDS = "a photo of a thing on a table in a sunny room"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """One contender at one size."""

    contender: str
    size: str = "tiny"
    """tiny, sd15 or sdxl; tiny_sdxl is a small UNet with SDXL's conditioning."""
    device: str = "cpu"
    dtype: str = "float32"
    """Of the frozen weights; on a GPU the host chooses the dtype that it computes in."""
    phase: str = "lora"
    latent: int = 32
    """Side of the square latents."""
    batch: int = 1
    rank: int = 8
    checkpointing: str = "off"
    concepts: int = 0
    text: str = ""
    """Dtype of real text encoders; empty means precomputed conditioning."""
    text_layers: int = 0
    """Layers of each text encoder; 0 means all."""
    freed: str = "kept"
    """Whether the C library keeps large freed blocks for later or has `returned` them."""

    @property
    def name(self) -> str:
        """All settings that are not defaults, which distinguish this row from all others."""
        defaults = Setup(contender=self.contender)
        shown = [
            str(value) if name in ("size", "contender") else f"{name} {value}"
            for name, value in asdict(self).items()
            if value != getattr(defaults, name)
        ]
        return ", ".join([self.contender, *shown])

    def words(self) -> list[str]:
        return [f"--{name}={value}" for name, value in asdict(self).items()]


def parse(words: list[str]) -> Setup:
    """Read a command line that `Setup.words` made."""
    parser = argparse.ArgumentParser()
    for field in fields(Setup):
        kind: Any = int if field.type == "int" else str
        parser.add_argument(f"--{field.name}", type=kind)
    return Setup(**vars(parser.parse_args(words)))
