"""File names for concepts whose embeddings are saved as files of their own."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

SUFFIX = ".safetensors"
# What Windows forbids in file names, and what ends a name in the host's prompts.
_UNSAFE = re.compile(r'[<>:"/\\|?*\[\]\s]')
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul"}
    | {f"{port}{digit}" for port in ("com", "lpt") for digit in range(10)}
)
_MAX_BYTES = 255


def safe_stem(name: str) -> str:
    """A concept's name as a file name without the ending; ValueError if no file can have it."""
    stem = _UNSAFE.sub("_", name)
    if not stem.strip("_"):
        raise ValueError(f"The name {name!r} leaves nothing for a file name: rename the concept.")
    if stem.lower() in _RESERVED:
        raise ValueError(f"No file can be called {name!r} on Windows: rename the concept.")
    if len((stem + SUFFIX).encode()) > _MAX_BYTES:
        raise ValueError(f"The name '{name[:40]}…' is too long for a file: rename the concept.")
    return stem


def file_stems(names: Iterable[str], lora_stem: str | None) -> dict[str, str]:
    """Each name's file stem; ValueError where two names, or a name and the LoRA, share one."""
    stems = {name: safe_stem(name) for name in names}
    owners = {} if lora_stem is None else {_folded(lora_stem): "the LoRA"}
    for name, stem in stems.items():
        owner = owners.setdefault(_folded(stem), f"'{name}'")
        if owner != f"'{name}'":
            raise ValueError(
                f"The embedding '{name}' and {owner} would both be saved as {stem}{SUFFIX}: "
                "rename one of them."
            )
    return stems


def _folded(stem: str) -> str:
    """The form that two names share if Windows or macOS takes them for the same file."""
    return unicodedata.normalize("NFC", stem).casefold()
