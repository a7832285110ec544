"""Any known file, or files that belong together, as one bundle: whole, or its names alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

import torch
from safetensors import SafetensorError, safe_open

from .bundle import Bundle, Embeddings, Entry, Vectors, as_notes, cut, few, short
from .encoders import sort_vectors
from .file_names import SUFFIX
from .files.safetensors import read_safetensors, unreadable
from .files.torch import SUFFIXES as TORCH_SUFFIXES
from .files.torch import read_torch
from .formats import Content, FileSet, Source, find_files, find_format
from .layers.family import guess_family
from .lowrank import check_alphas, check_numbers
from .metadata import Index, kept_header, read_index
from .token_map import TOKEN_MAP, TokenMap, json_token_map, parse_token_map, split_rows, unused_rows

SUFFIXES = frozenset({SUFFIX, ".pti", *TORCH_SUFFIXES})
"""Endings of files that may hold a bundle or a part of one"""

_MOST_SHOWN = 200
"""Names that a node shows of a file"""

Opener = Callable[[Path], Source]


@dataclass(frozen=True, kw_only=True, slots=True)
class Glance:
    """Names in the file's order with what is known about each, and the number of LoRA tensors."""

    entries: tuple[Entry, ...]
    lora: int
    family: str
    thumbnail: str
    notes: tuple[str, ...]
    opened: bool = True
    """Whether the file was looked into at all"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Unchecked:
    """The content of all files, and what the first one says about itself."""

    content: Content
    index: Index
    header: Mapping[str, str]


def load_bundle(path: Path, *, token_map: str = "", finite: bool = True) -> Bundle:
    """A file of any known format, with the files that its trainer put next to it, or their folder.

    LoRA keys stay as they are where a loader knows them, and `notes` says what was left out.
    `token_map` (`TOK = <s0><s1>`) splits an embedding that holds several concepts. NaN and
    malformed alphas are refused unless `finite` is off. ValueError for a file that is damaged,
    unknown or ambiguous.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}: check the name and the folder.")
    try:
        return _bundle(_read(path, parse_token_map(token_map), open_source), finite)
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be loaded: {_reason(path, error)}") from error


def peek(path: Path) -> Glance:
    """What a bundle is called by in prompts, from headers alone: no tensor is read.

    Files of torch have no header, and they are not opened by merely looking at a workflow.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path.name}: refresh the list.")
    closed = [file for file in files_of(path) if file.suffix.lower() in TORCH_SUFFIXES]
    if closed:
        names = ", ".join(short(file.name) for file in closed)
        note = f"{names}: files of this kind can hold code, so they are opened only by a run."
        return Glance(entries=(), lora=0, family="", thumbnail="", notes=(cut(note),), opened=False)
    try:
        unchecked = _read(path, {}, _open_header)
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be loaded: {_reason(path, error)}") from error
    content, index = unchecked.content, unchecked.index
    entries = {entry.name: entry for entry in (*content.entries, *index.entries)}
    names = [name for name in entries if name in content.embeddings]
    names = list(dict.fromkeys([*names, *content.embeddings]))
    more = len(names) - _MOST_SHOWN
    notes = [f"{more} more names are not shown."] if more > 0 else []
    return Glance(
        entries=tuple(entries.get(name, Entry(name=name)) for name in names[:_MOST_SHOWN]),
        lora=len(content.lora),
        family=index.family,
        thumbnail=index.thumbnail,
        notes=as_notes([*notes, *content.notes]),
    )


def _reason(path: Path, error: Exception) -> str:
    """What an error says, with files called by their names, since everyone on a server reads it."""
    return cut(str(error).replace(f"{path.parent}{os.sep}", ""))


def files_of(path: Path) -> list[Path]:
    """The files that `load_bundle` reads for a path, so that a change of any can be noticed."""
    match = find_files(path)
    return match[1].files if match else [path]


def open_source(path: Path) -> Source:
    """One file's tensors and header; ValueError where it is damaged."""
    if path.suffix.lower() in TORCH_SUFFIXES:
        tensors, metadata = read_torch(path)
    else:
        tensors, metadata = read_safetensors(path)
    return Source(tensors=tensors, metadata=metadata, stem=path.stem)


class _Slice(Protocol):
    def get_shape(self) -> list[int]: ...


class _Header(Protocol):
    def keys(self) -> list[str]: ...
    def get_slice(self, name: str) -> _Slice: ...
    def metadata(self) -> dict[str, str] | None: ...


def _open_header(path: Path) -> Source:
    """A file with tensors that have a shape and no content."""
    try:
        opened = safe_open(str(path), framework="pt", device="cpu")
        with cast("AbstractContextManager[_Header]", opened) as file:
            names = file.keys()
            tensors = {
                name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names
            }
            return Source(tensors=tensors, metadata=file.metadata() or {}, stem=path.stem)
    except SafetensorError as error:
        raise unreadable(path, error) from error


def _read(path: Path, token_map: TokenMap, opener: Opener) -> _Unchecked:
    """The content of a path and of the files next to it; `opener` opens one file."""
    match = find_files(path)
    if match is not None:
        return _read_files(*match, token_map, opener)
    if path.is_dir():
        raise ValueError("no program is known that writes such a folder: choose one file of it.")
    source = opener(path)
    content = find_format(source).read(source)
    token_map = token_map or _own_map(source)
    if token_map:
        content = _split(content, token_map)
    elif source.may_hold_several:
        content = replace(content, notes=(*content.notes, *_many_rows(content.embeddings)))
    return _unchecked(content, source)


def _read_files(title: str, files: FileSet, token_map: TokenMap, opener: Opener) -> _Unchecked:
    loras = {path: opener(path) for path in files.loras}
    content = files.read_loras(loras)
    others = ", ".join(path.name for path in files.files[1:])
    notes = [f"Read as {title}, together with {others}."]
    token_map = token_map or files.token_map
    beside = Content(lora={}, embeddings={})
    entries: list[Entry] = []
    for path in files.embeddings:
        source = opener(path)
        embedding = find_format(source).read(source)
        _add_names(beside, embedding, files.names.get(path), path)
        entries += embedding.entries
        token_map = token_map or _own_map(source)
    if not token_map and files.may_hold_several:
        notes += _many_rows(beside.embeddings)
    if token_map:
        beside = _split(beside, token_map)
        entries = [*beside.entries]
    # The chosen file's own names come first.
    new = [name for name in beside.embeddings if name not in content.embeddings]
    later = [name for name in beside.embeddings if name in content.embeddings]
    notes += [
        f"The '{short(name)}' of {others} is left out: the file has its own." for name in later
    ]
    content = replace(
        content,
        embeddings={**content.embeddings, **{k: beside.embeddings[k] for k in new}},
        entries=(*content.entries, *entries),
        notes=(*notes, *content.notes, *beside.notes),
    )
    return _unchecked(content, loras[files.loras[0]])


def _unchecked(content: Content, source: Source) -> _Unchecked:
    index, header = read_index(source.metadata), kept_header(source.metadata)
    return _Unchecked(content=content, index=index, header=header)


def _own_map(source: Source) -> TokenMap:
    """The token map in the header of our own `_emb` files."""
    return json_token_map(source.metadata.get(TOKEN_MAP, "{}"))


def _add_names(into: Content, content: Content, only: str | None, path: Path) -> None:
    for name, vectors in content.embeddings.items():
        if name in into.embeddings:
            raise ValueError(
                f"two files hold the embedding '{short(name)}', one of them {path.name}."
            )
        if only is None or name == only:
            into.embeddings[name] = vectors


def _split(content: Content, token_map: TokenMap) -> Content:
    unused = unused_rows(content.embeddings, token_map)
    entries = tuple(
        Entry(name=name, placeholder="".join(f"<s{row}>" for row in rows))
        for name, rows in token_map.items()
    )
    return replace(
        content,
        embeddings=split_rows(content.embeddings, token_map),
        entries=entries,
        notes=(*content.notes, unused) if unused else content.notes,
    )


def _many_rows(embeddings: Embeddings) -> list[str]:
    """A note where one tensor may hold several concepts."""
    if len(embeddings) != 1:
        return []
    ((name, vectors),) = embeddings.items()
    count = max((len(t) for t in vectors.values() if t.ndim == 2), default=1)
    if count < 2:
        return []
    return [
        f"'{short(name)}' holds {count} vectors in one tensor, which may be of several concepts: "
        "if so, say in the token map which rows are whose, such as TOK = <s0><s1>."
    ]


def _bundle(unchecked: _Unchecked, finite: bool) -> Bundle:
    content, index = unchecked.content, unchecked.index
    if finite:
        check_alphas(content.lora)
        check_numbers(content.lora)
    vectors = sort_vectors(content.embeddings, finite=finite)
    missing = _missing(index, content.embeddings)
    return Bundle(
        family=index.family or guess_family(content.lora, vectors.embeddings),
        lora=content.lora,
        embeddings=_in_order(vectors.embeddings, index),
        outputs=vectors.outputs,
        entries=index.entries or content.entries,
        recipe=index.recipe,
        workflow=index.workflow,
        notes=as_notes(content.notes + vectors.notes + index.notes + missing),
        header=unchecked.header,
        thumbnail=index.thumbnail,
    )


def _in_order(embeddings: Embeddings, index: Index) -> dict[str, Vectors]:
    """The names in the order of the index, since a file keeps its tensors sorted by key."""
    first = [entry.name for entry in index.entries if entry.name in embeddings]
    return {name: embeddings[name] for name in dict.fromkeys([*first, *embeddings])}


def _missing(index: Index, embeddings: Embeddings) -> tuple[str, ...]:
    """A sentence about names that the file announces and does not hold."""
    names = [entry.name for entry in index.entries if entry.name not in embeddings]
    if not names:
        return ()
    if len(names) == 1:
        return (
            f"The embedding '{short(names[0])}' is not in this file: look for a file of that name.",
        )
    return (f"The embeddings {few(names)} are not in this file: look for files of those names.",)
