"""OneTrainer's unbundled files: the LoRA, and a folder `<lora>_embeddings` with a file per name.

Its bundles are A1111's form. Each embedding's file is called after its placeholder.
"""

from __future__ import annotations

from pathlib import Path

from . import FolderDialect, Together

FOLDER_END = "_embeddings"


def _find(path: Path) -> Together | None:
    if path.is_dir() or path.suffix != ".safetensors":
        return None
    folder = path.with_name(path.stem + FOLDER_END)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return Together(loras=[path], embeddings=files) if files else None


FOLDER = FolderDialect(title="OneTrainer's files", find=_find)
