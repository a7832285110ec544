"""Named vectors of the tests, and the host's own way to them: a file in an embeddings folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.sd
import torch
from safetensors.torch import save_file
from torch import Tensor

from pack.bundles.bundle import Bundle
from pack.nodes.host.text.resolve import NameRules, bind_names
from world import checkpoints

Vectors = dict[str, Tensor]


def write_loose(folder: Path, name: str, vectors: Vectors) -> None:
    """A file that the host finds as `embedding:<name>`."""
    path = folder / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: rows.contiguous() for key, rows in vectors.items()}, path)


def clip_with_files(path: Path, family: str, folders: list[str]) -> Any:
    """The CLIP of a short checkpoint as a loader node makes it: it looks for files in `folders`."""
    known = {"sd15": checkpoints.SD15, "sdxl": checkpoints.SDXL}[family]
    layers = {
        f"{name}_model_config": {"num_hidden_layers": known.short_layers} for name in known.encoders
    }
    with torch.inference_mode():
        return comfy.sd.load_checkpoint_guess_config(
            str(path),
            output_vae=False,
            output_model=False,
            embedding_directory=folders,
            te_model_options=layers,
        )[1]


def clip_with_names(clip: Any, names: Mapping[str, Vectors], origin: str = "the test") -> Any:
    """A clone of the CLIP that knows the names, as Load Bundle makes it."""
    bundle = Bundle(family="", lora={}, embeddings=names)
    return bind_names(clip, bundle, NameRules(), origin)[0]
