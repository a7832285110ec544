"""OneTrainer: a LoRA and a folder `<lora>_embeddings` with a file per name, or all in one file.

In one file they have A1111's form, with OneTrainer's names of the encoders. The files in the folder
are named after the placeholders.
"""

from __future__ import annotations

from pathlib import Path

from ..encoders import trainer_key
from . import Files, FileSet, FolderFormat, SaveJob, Writer, a1111

_FOLDER_END = "_embeddings"


def _find(path: Path) -> FileSet | None:
    if path.is_dir() or path.suffix != ".safetensors":
        return None
    folder = path.with_name(path.stem + _FOLDER_END)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return FileSet(loras=[path], embeddings=files) if files else None


def _files(job: SaveJob) -> Files:
    return a1111.files_with(job, trainer_key)


FOLDER = FolderFormat(title="OneTrainer's files", find=_find)
WRITER = Writer(files=_files, notes=a1111.notes)
