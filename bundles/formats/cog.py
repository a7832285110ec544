"""cog-sdxl: `lora.safetensors`, `embeddings.pti` and `special_params.json` in one folder."""

from __future__ import annotations

from pathlib import Path

from ..token_map import read_token_map
from . import Dialect, FolderDialect, Parts, Source, Together

LORA, EMBEDDINGS, TOKENS = "lora.safetensors", "embeddings.pti", "special_params.json"
KEYS = {"clip_l": "text_encoders_0", "clip_g": "text_encoders_1"}


def _recognizes(source: Source) -> bool:
    return bool(source.tensors) and source.tensors.keys() <= set(KEYS.values())


def _read(source: Source) -> Parts:
    return Parts(lora={}, embeddings={source.stem: dict(source.tensors)})


def _find(path: Path) -> Together | None:
    folder = path if path.is_dir() else path.parent
    lora, embeddings, tokens = (folder / name for name in (LORA, EMBEDDINGS, TOKENS))
    if path not in (folder, lora) or not embeddings.is_file() or not lora.is_file():
        return None
    return Together(
        loras=[lora],
        embeddings=[embeddings],
        texts=[tokens] if tokens.is_file() else [],
        token_map=read_token_map(tokens),
    )


DIALECT = Dialect(title="the embeddings of cog-sdxl", recognizes=_recognizes, read=_read)
FOLDER = FolderDialect(title="a folder of cog-sdxl", find=_find)
