"""Bundles to files: one file, a LoRA with files next to it, or another program's format."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor

from .bundle import Bundle, check_name, short
from .encoders import check_finite
from .file_names import SUFFIX
from .files.atomic import create_files, replace_file
from .formats import Files, SaveJob, Writer, writers
from .layers.generic import to_kohya
from .layers.peft_keys import MAGNITUDE, magnitude_layer
from .lowrank import check_alphas, check_numbers

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class Container(str, Enum):
    """What a bundle is saved as, each the name of a module in formats/ that writes it.

    `a1111` is one file that A1111 and SD.Next read whole; `header` is one file that is a plain LoRA
    to every other program; `loose` files can be read by every program; `diffusers` is a LoRA and
    one `_emb` file; `onetrainer` is a1111 with OneTrainer's names of encoders; `cog` is a folder.
    """

    A1111 = "a1111"
    LOOSE = "loose"
    HEADER = "header"
    DIFFUSERS = "diffusers"
    ONETRAINER = "onetrainer"
    COG = "cog"

    @property
    def writer(self) -> Writer:
        """What writes it."""
        return writers()[self.value]

    @property
    def is_folder(self) -> bool:
        """Whether several files are written, which should have a folder to themselves."""
        return self.writer.is_folder


def save_bundle(
    bundle: Bundle,
    path: Path,
    container: Container,
    dtype: torch.dtype | None,
    *,
    trainer_keys: bool = False,
) -> list[Path]:
    """Write the LoRA in `dtype`, embeddings in fp32: all files (the LoRA's first) or none.

    None keeps each tensor's own type. `trainer_keys` names T5's vectors in loose files `t5`, as
    trainers do, rather than `t5xxl`, as the host does. The folder is created once there is
    something to write. ValueError for a bundle that the container cannot hold.
    """
    files = _files(bundle, path, container, dtype, trainer_keys=trainer_keys)
    path.parent.mkdir(parents=True, exist_ok=True)
    create_files(files)
    return list(files)


def replace_bundle(path: Path, bundle: Bundle) -> None:
    """Write a bundle in one file, in fp32, in place of the one at `path`, if any."""
    for file, write in _files(bundle, path, Container.A1111, torch.float32).items():
        replace_file(file, write)


def warnings_for(bundle: Bundle, container: Container) -> list[str]:
    """Which programs refuse the files, and what the container leaves out or changes."""
    return [*container.writer.notes(bundle), *_magnitude_note(bundle)]


def _magnitude_note(bundle: Bundle) -> list[str]:
    """PEFT's lengths divide by the changed weight, so without it none become a `dora_scale`."""
    if not any(map(magnitude_layer, bundle.lora)):
        return []
    return [
        "The LoRA is a DoRA of PEFT: Load Bundle gives its weights their lengths, and programs "
        f"that do not know {MAGNITUDE} read a plain LoRA or refuse the file."
    ]


def _files(
    bundle: Bundle,
    path: Path,
    container: Container,
    dtype: torch.dtype | None,
    *,
    trainer_keys: bool = False,
) -> Files:
    _check(bundle, path, dtype)
    lora = to_kohya(bundle.lora, bundle.family)
    lora = lora if dtype is None else _cast(lora, dtype)
    job = SaveJob(bundle=bundle, path=path, lora=lora, trainer_keys=trainer_keys)
    return container.writer.files(job)


def _check(bundle: Bundle, path: Path, dtype: torch.dtype | None) -> None:
    """Refuse whatever could not be read again, before anything is written."""
    if path.suffix != SUFFIX:
        raise ValueError(
            f"{path.name} does not end in {SUFFIX}: give the bundle a file name that does."
        )
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"A LoRA cannot be saved as {dtype}: choose float16, bfloat16 or float32.")
    if not bundle.lora and not bundle.names:
        raise ValueError("The bundle holds no LoRA and no embedding: there is nothing to save.")
    check_alphas(bundle.lora)
    check_numbers(bundle.lora)
    for kind in (bundle.embeddings, bundle.outputs):
        for name, vectors in kind.items():
            check_name(name)
            for rows in vectors.values():
                check_finite(name, rows)


def _cast(lora: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    cast = {
        key: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for key, tensor in lora.items()
    }
    for key, tensor in cast.items():
        if torch.isinf(tensor).any():
            raise ValueError(
                f"{short(key)} holds values too large for {dtype}: "
                "save the LoRA in bfloat16 or float32."
            )
    return cast
