"""Eden's sd-lora-trainer: `<name>_embeddings.safetensors`, `special_params.json` and the LoRA."""

from __future__ import annotations

from pathlib import Path

from ..token_map import read_token_map
from . import FileSet, FolderFormat
from .cog import TOKENS

_EMBEDDINGS = "_embeddings.safetensors"
_LORAS = ("_sdxl.safetensors", "_sd15.safetensors", "_lora.safetensors", ".safetensors")


def _find(path: Path) -> FileSet | None:
    folder = path if path.is_dir() else path.parent
    tokens = folder / TOKENS
    embeddings = sorted(folder.glob(f"*{_EMBEDDINGS}")) if tokens.is_file() else []
    if len(embeddings) != 1:
        return None
    # Only the LoRA's name is sure to end in the model's: some versions put it into both names.
    name = embeddings[0].name.removesuffix(_EMBEDDINGS)
    base = name.removesuffix("_sdxl").removesuffix("_sd15")
    loras = [folder / f"{stem}{end}" for stem in dict.fromkeys((name, base)) for end in _LORAS]
    loras = [lora for lora in loras if lora.is_file()][:1]
    if not loras or path not in (folder, loras[0]):
        return None
    rows = read_token_map(tokens)
    return FileSet(loras=loras, embeddings=embeddings, texts=[tokens], token_map=rows)


FOLDER = FolderFormat(title="a folder of Eden's trainer", find=_find)
