"""invoke-training: `embeddings.safetensors` with `lora.safetensors` or with folders of PEFT."""

from __future__ import annotations

from pathlib import Path

from . import FileSet, FolderFormat
from .peft import ADAPTER, CONFIG, PARTS, read_adapters

_LORA, _EMBEDDINGS = "lora.safetensors", "embeddings.safetensors"


def _find(path: Path) -> FileSet | None:
    folder = path if path.is_dir() else path.parent
    embeddings, whole = folder / _EMBEDDINGS, folder / _LORA
    loras = [whole, *(folder / part / ADAPTER for part in PARTS)]
    loras = [lora for lora in loras if lora.is_file()]
    if not loras or not embeddings.is_file() or path not in (folder, whole, embeddings):
        return None
    configurations = [lora.with_name(CONFIG) for lora in loras if lora.name == ADAPTER]
    return FileSet(
        loras=loras,
        embeddings=[embeddings],
        texts=[file for file in configurations if file.is_file()],
        may_hold_several=True,
        read_loras=read_adapters,
    )


FOLDER = FolderFormat(title="a folder of invoke-training", find=_find)
