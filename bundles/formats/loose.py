"""Our own loose form: a plain LoRA whose index names the embedding files beside it."""

from __future__ import annotations

from pathlib import Path

from ..file_names import SUFFIX, safe_stem
from ..files.safetensors import read_header
from ..metadata import read_index
from . import FolderDialect, Together

KIND = "lora"


def _find(path: Path) -> Together | None:
    if path.is_dir():
        # `Save Bundle` calls the LoRA as its folder, without the number.
        loras = [one for one in sorted(path.glob(f"*{SUFFIX}"))[:1000] if _announced(one)]
        return _find(loras[0]) if len(loras) == 1 else None
    names = _announced(path) if path.suffix == SUFFIX and path.is_file() else ()
    files = {path.with_name(stem + SUFFIX): name for name, stem in _stems(names)}
    files = {file: name for file, name in files.items() if file.is_file() and file != path}
    return Together(loras=[path], embeddings=list(files), names=files) if files else None


def _announced(path: Path) -> tuple[str, ...]:
    try:
        index = read_index(read_header(path))
    except ValueError:
        return ()
    return tuple(entry.name for entry in index.entries) if index.kind == KIND else ()


def _stems(names: tuple[str, ...]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name in names:
        try:
            found.append((name, safe_stem(name)))
        except ValueError:
            continue
    return found


FOLDER = FolderDialect(title="a LoRA with embedding files beside it", find=_find)
