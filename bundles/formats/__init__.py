"""The forms in which bundles are found: a module each, with what it recognizes and reads."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path

from torch import Tensor

from ..bundle import Entry

Tensors = Mapping[str, Tensor]
Metadata = Mapping[str, str]
NEVER_LISTED = frozenset({"pt"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file as it is: its tensors, the text of its header and its name without ending."""

    tensors: Tensors
    metadata: Metadata
    stem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """A file taken apart: LoRA tensors, and per name the vectors under the file's own keys."""

    lora: dict[str, Tensor]
    embeddings: dict[str, dict[str, Tensor]]
    entries: tuple[Entry, ...] = ()
    """What a file of another program tells of its names."""
    notes: tuple[str, ...] = ()
    """Sentences about what was understood in a way that the user should know of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """One form of file; a fallback is asked only when no other dialect recognizes the file.

    A certain one is told by a field of the header, whatever its tensors look like besides.
    """

    title: str
    recognizes: Callable[[Source], bool]
    read: Callable[[Source], Parts]
    fallback: bool = False
    certain: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Together:
    """Files of one folder that make one bundle, as `find` of a folder dialect found them."""

    loras: Sequence[Path] = ()
    embeddings: Sequence[Path] = ()
    texts: Sequence[Path] = ()
    """JSON files that say more."""
    token_map: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    """Rows of the one embedding that belong to each name."""
    names: Mapping[Path, str] = field(default_factory=dict[Path, str])
    """What an embedding's file does not say itself."""
    maybe_several: bool = False
    """Whether the trainer puts the vectors of several concepts into one tensor."""

    @property
    def files(self) -> list[Path]:
        """Every file that is read."""
        return [*self.loras, *self.embeddings, *self.texts]


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderDialect:
    """A form of several files; `find` takes the folder, or the file that a user would choose."""

    title: str
    find: Callable[[Path], Together | None]


def find_dialect(source: Source) -> Dialect:
    """The one dialect of a file; ValueError where none or several fit: nothing is guessed."""
    fitting = [dialect for dialect in dialects() if dialect.recognizes(source)]
    certain = [dialect for dialect in fitting if dialect.certain]
    fitting = certain or [dialect for dialect in fitting if not dialect.fallback] or fitting
    if len(fitting) > 1:
        titles = " and ".join(dialect.title for dialect in fitting)
        raise ValueError(f"the file reads as {titles} alike, so it is not clear what it holds.")
    if not fitting:
        keys = ", ".join(key[:60] for key in sorted(source.tensors)[:3]) or "none"
        known = ", ".join(dialect.title for dialect in dialects())
        raise ValueError(f"this kind of file is not known (first keys: {keys}); known are {known}.")
    return fitting[0]


def read_rest(source: Source) -> Parts:
    """What lies beside a bundle's embeddings, read as a file of its own would be.

    A LoRA in words that no dialect knows stays as it is, for a loader that may know them.
    """
    if any(dialect.recognizes(source) for dialect in dialects()):
        return find_dialect(source).read(source)
    return Parts(lora=dict(source.tensors), embeddings={})


def find_together(path: Path) -> tuple[str, Together] | None:
    """The title and the files of the one folder dialect that fits; ValueError where several do."""
    found = [(kind.title, files) for kind in folder_dialects() if (files := kind.find(path))]
    if len(found) > 1:
        titles = " and ".join(title for title, _ in found)
        raise ValueError(f"the folder of {path.name} reads as {titles} alike: choose one file.")
    return found[0] if found else None


@cache
def dialects() -> tuple[Dialect, ...]:
    """Every `DIALECT` of the modules in this folder, by module name."""
    return tuple(d for module in _modules() if isinstance(d := _of(module, "DIALECT"), Dialect))


@cache
def folder_dialects() -> tuple[FolderDialect, ...]:
    """Every `FOLDER` of the modules in this folder, by module name."""
    found = (_of(module, "FOLDER") for module in _modules())
    return tuple(kind for kind in found if isinstance(kind, FolderDialect))


def _of(module: object, name: str) -> object:
    return vars(module).get(name)


def _modules() -> list[object]:
    names = [found.name for found in pkgutil.iter_modules(__path__)]
    return [import_module(f"{__name__}.{name}") for name in names if name not in NEVER_LISTED]
