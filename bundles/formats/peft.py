"""PEFT's `save_pretrained`: `adapter_model.safetensors`, and in `adapter_config.json` its alpha."""

from __future__ import annotations

from pathlib import Path

from ..layers.diffusers_keys import PEFT_PREFIX, from_peft, lacks_alpha, to_known_keys
from . import Dialect, FolderDialect, Parts, Source, Together
from .plain import is_adapter

CONFIG = "adapter_config.json"
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")


def _recognizes(source: Source) -> bool:
    named = any(key.startswith(PEFT_PREFIX) for key in source.tensors)
    return named and is_adapter(source.tensors)


def _read(source: Source) -> Parts:
    lora = to_known_keys(from_peft(source.tensors, {}))
    note = (
        f"{CONFIG} is not beside this adapter of PEFT, so its alpha is taken to be its rank: put "
        f"both into one folder, the adapter as {_ADAPTERS[0]}."
    )
    return Parts(lora=lora, embeddings={}, notes=(note,) if lacks_alpha(lora) else ())


def _find(path: Path) -> Together | None:
    folder = path if path.is_dir() else path.parent
    found = [folder / name for name in _ADAPTERS if (folder / name).is_file()][:1]
    if not found or path not in (folder, *found) or not (folder / CONFIG).is_file():
        return None
    return Together(loras=found, texts=[folder / CONFIG])


DIALECT = Dialect(title="an adapter of PEFT", recognizes=_recognizes, read=_read)
FOLDER = FolderDialect(title="an adapter of PEFT", find=_find)
