"""Bundles to files: in one file, as a LoRA with files beside it, or in another program's form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor

from .bundle import Bundle, check_name
from .encoders import check_finite
from .file_names import SUFFIX, safe_stem
from .files.atomic import create_files, replace_file
from .formats import target as drafts
from .layers.generic import to_kohya
from .layers.peft_keys import MAGNITUDE, magnitude_layer
from .lowrank import check_alphas

# Forge counts keys that fit no layer and gives the whole LoRA up above this.
FORGE_LIMIT = 12
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class Container(str, Enum):
    """`a1111` is one file that A1111 and SD.Next read whole; every program reads `loose` ones.

    `header` is one file that is a plain LoRA to every other program; `diffusers` is a LoRA and
    one `_emb` file; `onetrainer` is a1111 with OneTrainer's names of encoders; `cog` is a folder.
    """

    A1111 = "a1111"
    LOOSE = "loose"
    HEADER = "header"
    DIFFUSERS = "diffusers"
    ONETRAINER = "onetrainer"
    COG = "cog"

    @property
    def is_folder(self) -> bool:
        """Whether several files are written, which belong into a folder of their own."""
        return self in (Container.LOOSE, Container.DIFFUSERS, Container.COG)


_WRITERS: Mapping[Container, Callable[[drafts.Job], drafts.Files]] = {
    Container.A1111: drafts.whole,
    Container.LOOSE: drafts.loose,
    Container.HEADER: drafts.in_header,
    Container.DIFFUSERS: drafts.diffusers_pair,
    Container.ONETRAINER: drafts.onetrainer,
    Container.COG: drafts.cog_folder,
}


def save_bundle(
    bundle: Bundle,
    path: Path,
    container: Container,
    dtype: torch.dtype | None,
    *,
    trainer_keys: bool = False,
) -> list[Path]:
    """Write the LoRA in `dtype`, embeddings in fp32: all files (the LoRA's is first) or none.

    None keeps each tensor's own type. `trainer_keys` names T5's vectors `t5` in loose files, as
    trainers do, and not `t5xxl`, as the host does. The folder is made when there is something to
    write. ValueError for a bundle that the container cannot hold.
    """
    files = _files(bundle, path, container, dtype, trainer_keys=trainer_keys)
    path.parent.mkdir(parents=True, exist_ok=True)
    create_files(files)
    return list(files)


def replace_bundle(path: Path, bundle: Bundle) -> None:
    """Write a bundle in one file, in fp32, in place of the one at `path`, if any."""
    for file, write in _files(bundle, path, Container.A1111, torch.float32).items():
        replace_file(file, write)


def _files(
    bundle: Bundle,
    path: Path,
    container: Container,
    dtype: torch.dtype | None,
    *,
    trainer_keys: bool = False,
) -> drafts.Files:
    _check(bundle, path, dtype)
    lora = to_kohya(bundle.lora, bundle.family)
    lora = lora if dtype is None else _cast(lora, dtype)
    job = drafts.Job(bundle=bundle, path=path, lora=lora, trainer_keys=trainer_keys)
    return _WRITERS[container](job)


def warnings_for(bundle: Bundle, container: Container) -> list[str]:
    """Sentences about programs that refuse this form, and about what it changes for others."""
    return [*_of_container(bundle, container), *_lengths_note(bundle)]


def _of_container(bundle: Bundle, container: Container) -> list[str]:
    if container == Container.LOOSE:
        notes = [_file_note(name) for name in bundle.embeddings]
        return [note for note in notes if note] + _lost_outputs(bundle)
    if container == Container.DIFFUSERS:
        return [*_pair_note(bundle), *_lost_outputs(bundle)]
    if container == Container.COG:
        return _lost_outputs(bundle)
    if container == Container.HEADER:
        only = "Only Load Bundle finds the embeddings in the header of this file."
        return [only] if bundle.names else []
    return _refusals(bundle)


def _refusals(bundle: Bundle) -> list[str]:
    kinds = (bundle.embeddings, bundle.outputs)
    count = sum(len(vectors) for kind in kinds for vectors in kind.values())
    warnings: list[str] = []
    if count > FORGE_LIMIT:
        warnings.append(
            f"Forge refuses a LoRA with more than {FORGE_LIMIT} embedding tensors, and this bundle "
            f"has {count}: save it in the 'loose' or 'header' form for Forge."
        )
    if count:
        warnings.append(
            "diffusers refuses a LoRA file that holds embeddings: "
            "save it in the 'loose' or 'diffusers' form for diffusers."
        )
    if bundle.outputs:
        warnings.append("A1111 cannot load output embeddings and refuses the file.")
    return warnings


def _lengths_note(bundle: Bundle) -> list[str]:
    """They divide by the changed weight, which is not here, so they cannot become `dora_scale`."""
    if not any(map(magnitude_layer, bundle.lora)):
        return []
    return [
        "The LoRA is a DoRA of PEFT: Load Bundle gives its weights their lengths, and programs "
        f"that do not know {MAGNITUDE} read a plain LoRA or refuse the file."
    ]


def _pair_note(bundle: Bundle) -> list[str]:
    """How to tell diffusers which rows are whose: the file itself has no place for it."""
    if not bundle.embeddings:
        return []
    tokens = drafts.token_text(bundle)
    return [f"The rows of the _emb file are, as a token map: {tokens}."]


def _lost_outputs(bundle: Bundle) -> list[str]:
    names = ", ".join(bundle.outputs)
    return [f"This form has no place for output embeddings: {names} left out."] if names else []


def _check(bundle: Bundle, path: Path, dtype: torch.dtype | None) -> None:
    """Refuse what could not be read again, before anything is written."""
    if path.suffix != SUFFIX:
        raise ValueError(
            f"{path.name} does not end in {SUFFIX}: give the bundle a file name that does."
        )
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"A LoRA cannot be saved as {dtype}: choose float16, bfloat16 or float32.")
    if not bundle.lora and not bundle.names:
        raise ValueError("The bundle holds no LoRA and no embedding: there is nothing to save.")
    check_alphas(bundle.lora)
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
        if torch.isinf(tensor).any() and not torch.isinf(lora[key]).any():
            raise ValueError(
                f"{key} holds values too large for {dtype}: save the LoRA in bfloat16 or float32."
            )
    return cast


def _file_note(name: str) -> str:
    """What is to be said of a name as a file name, "" for nothing."""
    try:
        stem = safe_stem(name)
    except ValueError as error:
        return str(error)
    if stem == name:
        return ""
    return (
        f"The embedding '{name}' is saved as {stem}{SUFFIX}: "
        f"type embedding:{stem} where that file is used."
    )
