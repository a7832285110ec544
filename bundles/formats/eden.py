"""Eden's sd-lora-trainer: `<name>_embeddings.safetensors`, `special_params.json` and the LoRA."""

from __future__ import annotations

from pathlib import Path

from ..token_map import read_token_map
from . import FolderDialect, Together
from .cog import TOKENS

_EMBEDDINGS = "_embeddings.safetensors"
_LORAS = ("_sdxl.safetensors", "_sd15.safetensors", "_lora.safetensors", ".safetensors")


def _find(path: Path) -> Together | None:
    folder = path if path.is_dir() else path.parent
    tokens = folder / TOKENS
    found = sorted(folder.glob(f"*{_EMBEDDINGS}")) if tokens.is_file() else []
    if len(found) != 1:
        return None
    # Of the model's name only the end `_sdxl` is sure: some versions put it into both names.
    name = found[0].name.removesuffix(_EMBEDDINGS)
    base = name.removesuffix("_sdxl").removesuffix("_sd15")
    loras = [folder / f"{one}{end}" for one in dict.fromkeys((name, base)) for end in _LORAS]
    loras = [lora for lora in loras if lora.is_file()][:1]
    if not loras or path not in (folder, loras[0]):
        return None
    return Together(loras=loras, embeddings=found, texts=[tokens], token_map=read_token_map(tokens))


FOLDER = FolderDialect(title="a folder of Eden's trainer", find=_find)
