"""Bundles to files and back: all in one file, or a plain LoRA and a file per embedding."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor

from .dialects import a1111, embedding, find_dialect
from .encoders import check_finite, sort_vectors
from .family import guess_family
from .files import Draft, read_safetensors, write_all
from .keys import to_kohya
from .manifest import Bundle, check_name
from .metadata import Index, build_metadata, read_index
from .names import SUFFIX, file_stems, safe_stem

# Forge counts keys that fit no layer and gives the whole LoRA up above this.
FORGE_LIMIT = 12
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class Container(str, Enum):
    """`a1111` is one file that A1111 and SD.Next read whole; every program reads `loose` ones."""

    A1111 = "a1111"
    LOOSE = "loose"


def save_bundle(bundle: Bundle, path: Path, container: Container, dtype: torch.dtype) -> list[Path]:
    """Write the LoRA in `dtype`, embeddings in fp32: all files (the LoRA's is first) or none.

    The folder is made when there is something to write.
    """
    _check(bundle, path, dtype)
    lora = _cast(to_kohya(bundle.lora, bundle.family), dtype)
    if container == Container.A1111:
        drafts = [_whole(bundle, path, lora)]
    else:
        drafts = _loose(bundle, path, lora)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_all(drafts)
    return [draft.path for draft in drafts]


def load_bundle(path: Path) -> Bundle:
    """A file of any known form; LoRA keys stay as they are, `notes` says what was left out."""
    tensors, metadata = read_safetensors(path)
    try:
        parts = find_dialect(tensors, metadata).read(tensors, metadata, path.stem)
        embeddings, notes = sort_vectors(parts.embeddings)
        index = read_index(metadata)
        return Bundle(
            family=index.family or guess_family(parts.lora, embeddings),
            lora=parts.lora,
            embeddings=_in_order(embeddings, index),
            entries=index.entries,
            recipe=index.recipe,
            workflow=index.workflow,
            notes=notes + index.notes + _absent(index, embeddings, parts.embeddings),
        )
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be loaded: {error}") from error


def warnings_for(bundle: Bundle, container: Container) -> list[str]:
    """Sentences about programs that refuse this form, and about names that it changes."""
    if container == Container.LOOSE:
        notes = [_file_note(name) for name in bundle.embeddings]
        return [note for note in notes if note]
    count = sum(len(vectors) for vectors in bundle.embeddings.values())
    warnings: list[str] = []
    if count > FORGE_LIMIT:
        warnings.append(
            f"Forge refuses a LoRA with more than {FORGE_LIMIT} embedding tensors, and this bundle "
            f"has {count}: save it in the 'loose' form for Forge."
        )
    if count:
        warnings.append(
            "diffusers refuses a LoRA file that holds embeddings: "
            "save it in the 'loose' form for diffusers."
        )
    return warnings


def _check(bundle: Bundle, path: Path, dtype: torch.dtype) -> None:
    """Refuse what could not be read again, before anything is written."""
    if path.suffix != SUFFIX:
        raise ValueError(
            f"{path.name} does not end in {SUFFIX}: give the bundle a file name that does."
        )
    if dtype not in DTYPES:
        raise ValueError(f"A LoRA cannot be saved as {dtype}: choose float16, bfloat16 or float32.")
    if not bundle.lora and not bundle.embeddings:
        raise ValueError("The bundle holds no LoRA and no embedding: there is nothing to save.")
    for name, vectors in bundle.embeddings.items():
        check_name(name)
        for rows in vectors.values():
            check_finite(name, rows)


def _whole(bundle: Bundle, path: Path, lora: dict[str, Tensor]) -> Draft:
    names = tuple(bundle.embeddings)
    tensors = dict(lora)
    for name, vectors in bundle.embeddings.items():
        for encoder, rows in vectors.items():
            tensors[a1111.embedding_key(name, encoder)] = rows.to(torch.float32)
    metadata = build_metadata(bundle, title=path.stem, lora=lora, names=names, kind="bundle")
    return Draft(path=path, tensors=tensors, metadata=metadata)


def _loose(bundle: Bundle, path: Path, lora: dict[str, Tensor]) -> list[Draft]:
    """The LoRA's file, unless there is no LoRA, and a file per embedding in the same folder."""
    names = tuple(bundle.embeddings)
    stems = file_stems(names, path.stem if lora else None)
    drafts = [
        Draft(
            path=path.with_name(stems[name] + SUFFIX),
            tensors=_loose_tensors(bundle.embeddings[name]),
            metadata=build_metadata(
                bundle, title=name, lora={}, names=(name,), kind=embedding.KIND
            ),
        )
        for name in names
    ]
    if not lora:
        return drafts
    metadata = build_metadata(bundle, title=path.stem, lora=lora, names=names, kind="lora")
    return [Draft(path=path, tensors=lora, metadata=metadata), *drafts]


def _loose_tensors(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A single CLIP encoder goes under kohya's `emb_params`, which every program reads."""
    rows = {encoder: tensor.to(torch.float32) for encoder, tensor in vectors.items()}
    single = next(iter(rows)) if len(rows) == 1 else ""
    if (single, rows[single].shape[1] if single else 0) in {("clip_l", 768), ("clip_h", 1024)}:
        return {"emb_params": rows[single]}
    return rows


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


def _in_order(
    embeddings: Mapping[str, Mapping[str, Tensor]], index: Index
) -> dict[str, Mapping[str, Tensor]]:
    """The names in the order of the index, since a file keeps its tensors sorted by key."""
    first = [entry.name for entry in index.entries if entry.name in embeddings]
    return {name: embeddings[name] for name in dict.fromkeys([*first, *embeddings])}


def _absent(
    index: Index,
    embeddings: Mapping[str, Mapping[str, Tensor]],
    found: Mapping[str, Mapping[str, Tensor]],
) -> tuple[str, ...]:
    """A sentence for each name that the file announces and does not hold."""
    absent = [entry.name for entry in index.entries if entry.name not in {*embeddings, *found}]
    return tuple(
        f"The embedding '{name}' is not in this file: look for a file of that name."
        for name in absent
    )


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
