"""Our own loose form: a plain LoRA whose index names the embedding files next to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..bundle import Bundle
from ..encoders import trainer_key
from ..file_names import SUFFIX, file_stems, safe_stem
from ..files.safetensors import read_header, tensor_file
from ..metadata import EMBEDDING, LORA, build_metadata, read_index
from . import Files, FileSet, FolderFormat, SaveJob, Writer, lost_outputs
from .plain import lora_file

_MOST_FILES = 1000
"""Files of a folder whose headers are read at most"""


def _find(path: Path) -> FileSet | None:
    if path.is_dir():
        # Save Bundle names the LoRA after its folder, without the folder's number.
        loras = [file for file in sorted(path.glob(f"*{SUFFIX}"))[:_MOST_FILES] if _names(file)]
        return _find(loras[0]) if len(loras) == 1 else None
    names = _names(path) if path.suffix == SUFFIX and path.is_file() else ()
    files = {path.with_name(stem + SUFFIX): name for name, stem in _stems(names)}
    files = {file: name for file, name in files.items() if file.is_file() and file != path}
    return FileSet(loras=[path], embeddings=list(files), names=files) if files else None


def _names(path: Path) -> tuple[str, ...]:
    """The names that a LoRA of this form announces; none for any other file."""
    try:
        index = read_index(read_header(path))
    except ValueError:
        return ()
    return tuple(entry.name for entry in index.entries) if index.kind == LORA else ()


def _stems(names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Names and their file stems, without names that no file can have."""
    for name in names:
        try:
            yield name, safe_stem(name)
        except ValueError:
            continue


def _files(job: SaveJob) -> Files:
    job.refuse_outputs_alone()
    bundle, names = job.bundle, tuple(job.bundle.embeddings)
    stems = file_stems(names, job.path.stem if job.lora else None)
    files = lora_file(job)
    for name in names:
        tensors = _tensors(bundle.embeddings[name], job.trainer_keys)
        metadata = build_metadata(bundle, title=name, lora={}, names=(name,), kind=EMBEDDING)
        files[job.path.with_name(stems[name] + SUFFIX)] = tensor_file(tensors, metadata)
    return files


def _tensors(vectors: Mapping[str, Tensor], trainer_keys: bool) -> dict[str, Tensor]:
    """A single CLIP encoder goes under kohya's `emb_params`, which every program reads."""
    rows = {encoder: tensor.to(torch.float32) for encoder, tensor in vectors.items()}
    single = next(iter(rows)) if len(rows) == 1 else ""
    if (single, rows[single].shape[1] if single else 0) in {("clip_l", 768), ("clip_h", 1024)}:
        return {"emb_params": rows[single]}
    return {trainer_key(key): t for key, t in rows.items()} if trainer_keys else rows


def _notes(bundle: Bundle) -> list[str]:
    notes = [note for name in bundle.embeddings if (note := _file_note(name))]
    return notes + lost_outputs(bundle)


def _file_note(name: str) -> str:
    """A sentence about a name that has to change, or cannot serve, as a file name, else ""."""
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


FOLDER = FolderFormat(title="a LoRA with embedding files beside it", find=_find)
WRITER = Writer(files=_files, notes=_notes, is_folder=True)
