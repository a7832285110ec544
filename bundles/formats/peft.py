"""PEFT's `save_pretrained`: `adapter_model.safetensors`, with its alpha in a configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from torch import Tensor

from ..layers.diffusers_keys import to_known_keys
from ..layers.peft_keys import PEFT_PREFIX, from_peft, lacks_alpha, other_kind
from . import Content, FileSet, FolderFormat, Format, Source, read_each
from .plain import is_adapter

CONFIG = "adapter_config.json"
ADAPTER = "adapter_model.safetensors"
PARTS = ("unet", "text_encoder", "text_encoder_1", "text_encoder_2")
"""Folders that say which part of a pipeline their adapter belongs to"""
_ADAPTERS = (ADAPTER, "adapter_model.bin")
_MAX_CONFIG = 1024**2


def _recognizes(source: Source) -> bool:
    tensors = source.tensors
    return _is_peft(source) and (is_adapter(tensors) or bool(other_kind(tensors)))


def _is_peft(source: Source) -> bool:
    return any(key.startswith(PEFT_PREFIX) for key in source.tensors)


def _read(source: Source) -> Content:
    lora = to_known_keys(from_peft(source.tensors, {}))
    note = (
        f"{CONFIG} is not next to this PEFT adapter, so its alpha is taken to be its rank: put "
        f"both into one folder, the adapter as {ADAPTER}."
    )
    return Content(lora=lora, embeddings={}, notes=(note,) if lacks_alpha(lora) else ())


def _find(path: Path) -> FileSet | None:
    folder = path if path.is_dir() else path.parent
    loras = [folder / name for name in _ADAPTERS if (folder / name).is_file()][:1]
    config = folder / CONFIG
    if not loras or path not in (folder, *loras) or not config.is_file():
        return None
    return FileSet(loras=loras, texts=[config], read_loras=read_adapters)


def read_adapters(sources: Mapping[Path, Source]) -> Content:
    """One LoRA from adapters, each with the configuration next to it, and from other files."""
    configured = {
        path: source
        for path, source in sources.items()
        if _is_peft(source) and path.with_name(CONFIG).is_file()
    }
    adapters: dict[str, Tensor] = {}
    for path, source in configured.items():
        part = path.parent.name if path.parent.name in PARTS else ""
        adapters |= from_peft(source.tensors, _configuration(path.with_name(CONFIG)), part)
    content = read_each({path: s for path, s in sources.items() if path not in configured})
    # All parts of a pipeline together, since the UNet alone tells the family.
    content.lora.update(to_known_keys(adapters))
    return content


def _configuration(path: Path) -> dict[str, object]:
    if path.stat().st_size > _MAX_CONFIG:
        raise ValueError(f"{path.name} is too long for a configuration: save the adapter anew.")
    try:
        parsed: object = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be read: {str(error)[:200]}.") from error
    return cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}


FORMAT = Format(title="an adapter of PEFT", recognizes=_recognizes, read=_read)
FOLDER = FolderFormat(title="an adapter of PEFT", find=_find)
