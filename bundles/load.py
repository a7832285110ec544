"""Any known file, or files that belong together, as one bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from torch import Tensor

from .bundle import Bundle, Entry
from .encoders import sort_vectors
from .file_names import SUFFIX
from .files.safetensors import read_safetensors
from .files.torch import SUFFIXES as TORCH_SUFFIXES
from .files.torch import read_torch
from .formats import Parts, Source, Together, find_dialect, find_together
from .formats.invoke import PARTS
from .formats.peft import CONFIG
from .layers.diffusers_keys import PEFT_PREFIX, from_peft, to_known_keys
from .layers.family import guess_family
from .lowrank import check_alphas
from .metadata import Index, kept_header, read_index
from .token_map import TOKEN_MAP, TokenMap, json_token_map, parse_token_map, split_rows, unused_rows

SUFFIXES = frozenset({SUFFIX, ".pti", *TORCH_SUFFIXES})
"""Endings of files that may hold a bundle or a part of one."""
_MAX_CONFIG = 1024**2


@dataclass(slots=True)
class Found:
    """What has been read so far."""

    parts: Parts
    index: Index = field(default_factory=Index)
    header: Mapping[str, str] = field(default_factory=dict[str, str])


def load_bundle(path: Path, *, token_map: str = "", finite: bool = True) -> Bundle:
    """A file of any known form, with the files that its trainer put beside it, or their folder.

    LoRA keys stay as they are where a loader knows them, and `notes` says what was left out.
    `token_map` (`TOK = <s0><s1>`) splits an embedding that holds several concepts. NaN and an
    alpha that is no number are refused unless `finite` is off. ValueError for what is damaged,
    unknown or ambiguous.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}: check the name and the folder.")
    try:
        return _bundle(read_parts(path, parse_token_map(token_map)), finite)
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be loaded: {error}") from error


def files_of(path: Path) -> list[Path]:
    """The files that `load_bundle` reads for a path, such as to notice when one changes."""
    found = find_together(path)
    return found[1].files if found else [path]


def open_source(path: Path) -> Source:
    """One file's tensors and header, whatever it is; ValueError where it is damaged."""
    if path.suffix.lower() in TORCH_SUFFIXES:
        tensors, metadata = read_torch(path)
    else:
        tensors, metadata = read_safetensors(path)
    return Source(tensors=tensors, metadata=metadata, stem=path.stem)


def read_parts(
    path: Path, token_map: TokenMap, opener: Callable[[Path], Source] = open_source
) -> Found:
    """What a path and the files beside it hold, before it is checked; `opener` reads one file."""
    together = find_together(path)
    if together is not None:
        return _read_together(*together, token_map, opener)
    if path.is_dir():
        raise ValueError("no program is known that writes such a folder: choose one file of it.")
    source = opener(path)
    parts = find_dialect(source).read(source)
    chosen = token_map or _own_map(source)
    if chosen:
        parts = _split(parts, chosen)
    elif source.stem.endswith("_emb") and not source.metadata:
        parts = replace(parts, notes=(*parts.notes, *_many_rows(parts.embeddings)))
    index = read_index(source.metadata)
    return Found(parts=parts, index=index, header=kept_header(source.metadata))


def _read_together(
    title: str, files: Together, token_map: TokenMap, opener: Callable[[Path], Source]
) -> Found:
    others = ", ".join(path.name for path in files.files[1:])
    found, notes = _read_loras(files, opener), [f"Read as {title}, together with {others}."]
    chosen, entries = token_map or files.token_map, list[Entry]()
    for path in files.embeddings:
        source = opener(path)
        parts = find_dialect(source).read(source)
        _add_names(found.parts, parts, files.names.get(path), path)
        entries += parts.entries
        chosen = chosen or _own_map(source)
    joined = replace(found.parts, entries=(*entries,))
    if chosen:
        joined = _split(joined, chosen)
    elif files.maybe_several:
        notes += _many_rows(joined.embeddings)
    found.parts = replace(joined, notes=(*notes, *joined.notes))
    return found


def _read_loras(files: Together, opener: Callable[[Path], Source]) -> Found:
    """The LoRA of all files; the header is that of the first."""
    found, adapters, notes = Found(parts=Parts(lora={}, embeddings={})), dict[str, Tensor](), ()
    for path in files.loras:
        source = opener(path)
        if path == files.loras[0]:
            found.index, found.header = read_index(source.metadata), kept_header(source.metadata)
        if _is_configured(path, source):
            adapters |= _from_peft(path, source)
            continue
        parts = find_dialect(source).read(source)
        found.parts.lora.update(parts.lora)
        notes += parts.notes
    # All parts of a pipeline at once: the UNet alone tells the family.
    found.parts.lora.update(to_known_keys(adapters))
    found.parts = replace(found.parts, notes=notes)
    return found


def _is_configured(path: Path, source: Source) -> bool:
    named = any(key.startswith(PEFT_PREFIX) for key in source.tensors)
    return named and path.with_name(CONFIG).is_file()


def _own_map(source: Source) -> TokenMap:
    """What our own `_emb` files say in their header."""
    return json_token_map(source.metadata.get(TOKEN_MAP, "{}"))


def _from_peft(path: Path, source: Source) -> dict[str, Tensor]:
    """An adapter with what its configuration tells; the folder is called as its part of it."""
    part = path.parent.name if path.parent.name in PARTS else ""
    return from_peft(source.tensors, _json(path.with_name(CONFIG)), part)


def _json(path: Path) -> dict[str, object]:
    if path.stat().st_size > _MAX_CONFIG:
        raise ValueError(f"{path.name} is too long for a configuration: save the adapter anew.")
    try:
        parsed: object = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be read: {str(error)[:200]}.") from error
    return cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}


def _add_names(into: Parts, parts: Parts, only: str | None, path: Path) -> None:
    for name, vectors in parts.embeddings.items():
        if name in into.embeddings:
            raise ValueError(f"two files hold the embedding '{name}', one of them {path.name}.")
        if only is None or name == only:
            into.embeddings[name] = vectors


def _split(parts: Parts, token_map: TokenMap) -> Parts:
    left = unused_rows(parts.embeddings, token_map)
    entries = tuple(
        Entry(name=name, placeholder="".join(f"<s{row}>" for row in rows))
        for name, rows in token_map.items()
    )
    return replace(
        parts,
        embeddings=split_rows(parts.embeddings, token_map),
        entries=entries,
        notes=(*parts.notes, left) if left else parts.notes,
    )


def _many_rows(embeddings: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """A note where one tensor may hold several concepts."""
    if len(embeddings) != 1:
        return []
    ((name, vectors),) = embeddings.items()
    count = max((len(t) for t in vectors.values() if t.ndim == 2), default=1)
    if count < 2:
        return []
    return [
        f"'{name}' holds {count} vectors in one tensor, which may be of several concepts: if so, "
        "say in the token map which rows are whose, such as TOK = <s0><s1>."
    ]


def _bundle(found: Found, finite: bool) -> Bundle:
    parts, index = found.parts, found.index
    if finite:
        check_alphas(parts.lora)
    vectors = sort_vectors(parts.embeddings, finite=finite)
    absent = _absent(index, parts.embeddings)
    return Bundle(
        family=index.family or guess_family(parts.lora, vectors.embeddings),
        lora=parts.lora,
        embeddings=_in_order(vectors.embeddings, index),
        outputs=vectors.outputs,
        entries=index.entries or parts.entries,
        recipe=index.recipe,
        workflow=index.workflow,
        notes=parts.notes + vectors.notes + index.notes + absent,
        header=found.header,
        thumbnail=index.thumbnail,
    )


def _in_order(
    embeddings: Mapping[str, Mapping[str, Tensor]], index: Index
) -> dict[str, Mapping[str, Tensor]]:
    """The names in the order of the index, since a file keeps its tensors sorted by key."""
    first = [entry.name for entry in index.entries if entry.name in embeddings]
    return {name: embeddings[name] for name in dict.fromkeys([*first, *embeddings])}


def _absent(index: Index, found: Mapping[str, Mapping[str, Tensor]]) -> tuple[str, ...]:
    """A sentence for each name that the file announces and does not hold."""
    absent = [entry.name for entry in index.entries if entry.name not in found]
    return tuple(
        f"The embedding '{name}' is not in this file: look for a file of that name."
        for name in absent
    )
