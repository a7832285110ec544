"""The forms in which bundles are found: a module each, with what it recognizes and reads."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from torch import Tensor

Tensors = Mapping[str, Tensor]
Metadata = Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """A file taken apart: LoRA tensors, and per name the vectors under the file's own keys."""

    lora: dict[str, Tensor]
    embeddings: dict[str, dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """One form of file; a fallback is asked only when no other dialect recognizes the file."""

    title: str
    recognizes: Callable[[Tensors, Metadata], bool]
    read: Callable[[Tensors, Metadata, str], Parts]
    fallback: bool = False


def find_dialect(tensors: Tensors, metadata: Metadata) -> Dialect:
    """The one dialect of a file; ValueError where none or several fit: nothing is guessed."""
    fitting = [dialect for dialect in dialects() if dialect.recognizes(tensors, metadata)]
    fitting = [dialect for dialect in fitting if not dialect.fallback] or fitting
    if len(fitting) > 1:
        titles = " and ".join(dialect.title for dialect in fitting)
        raise ValueError(f"the file reads as {titles} alike, so it is not clear what it holds.")
    if not fitting:
        keys = ", ".join(sorted(tensors)[:3]) or "none"
        known = ", ".join(dialect.title for dialect in dialects())
        raise ValueError(f"this kind of file is not known (first keys: {keys}); known are {known}.")
    return fitting[0]


@cache
def dialects() -> tuple[Dialect, ...]:
    """Every `DIALECT` of the modules in this folder, by module name."""
    modules = [
        import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)
    ]
    return tuple(dialect for module in modules if isinstance(dialect := module.DIALECT, Dialect))
