"""The formats in which bundles are found and saved, each in a module of its own.

A module is found by its file. It has a `FORMAT` for single files, a `FOLDER` for files that belong
together, a `WRITER` if bundles can be saved so, or several of them.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from ..bundle import Bundle, Entry
from ..encoders import OUTPUT
from ..files.atomic import Write
from ..metadata import build_metadata

Tensors = Mapping[str, Tensor]
Files = dict[Path, Write]
"""What each file is written by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file: its tensors, the texts of its header, and its name without the ending."""

    tensors: Tensors
    metadata: Mapping[str, str]
    stem: str

    @property
    def may_hold_several(self) -> bool:
        """Whether one tensor may hold several concepts, as in the `_emb` files of diffusers."""
        return self.stem.endswith("_emb") and not self.metadata


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What a file holds: LoRA tensors, and by name the vectors under the file's own keys."""

    lora: dict[str, Tensor]
    embeddings: dict[str, dict[str, Tensor]]
    entries: tuple[Entry, ...] = ()
    """What files of other programs say about their names"""
    notes: tuple[str, ...] = ()
    """What the user should know about how the file was understood"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """How one kind of file is recognized and read."""

    title: str
    recognizes: Callable[[Source], bool]
    read: Callable[[Source], Content]
    fallback: bool = False
    """Whether it is asked only when no other format recognizes the file"""
    certain: bool = False
    """Whether a field of the header settles it, whatever the tensors look like"""


def read_each(sources: Mapping[Path, Source]) -> Content:
    """Several files of one LoRA, each in its own format, with the names that they hold."""
    lora: dict[str, Tensor] = {}
    embeddings: dict[str, dict[str, Tensor]] = {}
    entries: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()
    for source in sources.values():
        content = find_format(source).read(source)
        lora |= content.lora
        embeddings |= content.embeddings
        entries += content.entries
        notes += content.notes
    return Content(lora=lora, embeddings=embeddings, entries=entries, notes=notes)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSet:
    """Files of one folder that make up one bundle."""

    loras: Sequence[Path] = ()
    embeddings: Sequence[Path] = ()
    texts: Sequence[Path] = ()
    """JSON files with further details"""
    token_map: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    """Which rows of the only embedding belong to each name"""
    names: Mapping[Path, str] = field(default_factory=dict[Path, str])
    """The one name to take from an embedding's file, where that is known"""
    may_hold_several: bool = False
    """Whether the trainer puts the vectors of several concepts into one tensor"""
    read_loras: Callable[[Mapping[Path, Source]], Content] = read_each

    @property
    def files(self) -> list[Path]:
        """Every file that is read."""
        return [*self.loras, *self.embeddings, *self.texts]


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderFormat:
    """How files that belong together are found, from their folder or the file a user chooses."""

    title: str
    find: Callable[[Path], FileSet | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveJob:
    """What to save where; the LoRA has the keys and the type that it gets in the file."""

    bundle: Bundle
    path: Path
    lora: Tensors
    trainer_keys: bool = False
    """Whether loose files name encoders as trainers do"""

    def metadata(self, kind: str) -> dict[str, str]:
        """The header of a file that announces all names."""
        names = tuple(self.bundle.names)
        return build_metadata(
            self.bundle, title=self.path.stem, lora=self.lora, names=names, kind=kind
        )

    def refuse_outputs_alone(self) -> None:
        """For formats that have no place for output embeddings."""
        if not self.lora and not self.bundle.embeddings:
            raise ValueError(
                "This form has no place for output embeddings, and the bundle holds nothing else: "
                "choose the a1111 form."
            )

    def vectors(self) -> Iterator[tuple[str, str, Tensor]]:
        """(name, key, rows in fp32) of every vector.

        Next to output vectors there are zeros, which readers of that form expect.
        """
        for name, vectors in self.bundle.embeddings.items():
            for key, rows in vectors.items():
                yield name, key, rows.to(torch.float32)
        for name, vectors in self.bundle.outputs.items():
            for key, rows in vectors.items():
                yield name, key, torch.zeros_like(rows, dtype=torch.float32)
                yield name, key + OUTPUT, rows.to(torch.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Writer:
    """How bundles are saved in a format, which users choose by the name of its module."""

    files: Callable[[SaveJob], Files]
    """ValueError for a bundle that the format cannot hold"""
    notes: Callable[[Bundle], list[str]]
    """Which programs refuse such a file, and what it leaves out"""
    is_folder: bool = False
    """Whether several files are written, which should have a folder to themselves"""


def lost_outputs(bundle: Bundle) -> list[str]:
    """A sentence about output embeddings, for formats that have no place for them."""
    names = ", ".join(bundle.outputs)
    return [f"This form has no place for output embeddings: {names} left out."] if names else []


def find_format(source: Source) -> Format:
    """The one format of a file; ValueError if none fits, or several: nothing is guessed."""
    fitting = [kind for kind in formats() if kind.recognizes(source)]
    certain = [kind for kind in fitting if kind.certain]
    fitting = certain or [kind for kind in fitting if not kind.fallback] or fitting
    if len(fitting) > 1:
        titles = " or ".join(kind.title for kind in fitting)
        raise ValueError(f"the file could be {titles}, so it is not clear what it holds.")
    if not fitting:
        keys = ", ".join(key[:60] for key in sorted(source.tensors)[:3]) or "none"
        titles = ", ".join(kind.title for kind in formats())
        raise ValueError(
            f"this kind of file is not known (first keys: {keys}); known are {titles}."
        )
    return fitting[0]


def read_remainder(source: Source) -> Content:
    """What a file holds apart from a bundle's embeddings, read as if it were a file of its own.

    Tensors that no format recognizes stay as they are, for a loader that may know them.
    """
    if any(kind.recognizes(source) for kind in formats()):
        return find_format(source).read(source)
    return Content(lora=dict(source.tensors), embeddings={})


def find_files(path: Path) -> tuple[str, FileSet] | None:
    """Title and files of the one folder format that fits; ValueError if several do."""
    fitting = [(kind.title, files) for kind in folder_formats() if (files := kind.find(path))]
    if len(fitting) > 1:
        titles = " or ".join(title for title, _ in fitting)
        raise ValueError(f"the folder of {path.name} could be {titles}: choose one file.")
    return fitting[0] if fitting else None


@cache
def formats() -> tuple[Format, ...]:
    """Every `FORMAT`, by module name."""
    values = _attributes("FORMAT").values()
    return tuple(value for value in values if isinstance(value, Format))


@cache
def folder_formats() -> tuple[FolderFormat, ...]:
    """Every `FOLDER`, by module name."""
    values = _attributes("FOLDER").values()
    return tuple(value for value in values if isinstance(value, FolderFormat))


@cache
def writers() -> dict[str, Writer]:
    """Every `WRITER` under the name of its module."""
    values = _attributes("WRITER").items()
    return {name: value for name, value in values if isinstance(value, Writer)}


def _attributes(name: str) -> dict[str, object]:
    modules = [module.name for module in pkgutil.iter_modules(__path__)]
    return {module: vars(import_module(f"{__name__}.{module}")).get(name) for module in modules}
