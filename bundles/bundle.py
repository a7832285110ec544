"""What a bundle is in memory, and which names a concept may have."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

Vectors = Mapping[str, Tensor]
"""Rows (n, d) by text encoder"""
Embeddings = Mapping[str, Vectors]
"""By name"""

_PREFIX = "bundle_emb"
# Control characters, lone surrogates, line and paragraph separators.
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


_LONGEST = 80
"""Letters of a name in a sentence; a file's names can have thousands"""
_MOST_NOTES, _LONGEST_NOTE = 50, 2000
_ENDLESS = re.compile(r"\S{400,}")


def short(name: str) -> str:
    """A name as sentences show it: cut if it would fill them."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."


def cut(text: str) -> str:
    """A text without what no name or path is as long as."""
    return _ENDLESS.sub(lambda word: f"{word[0][:_LONGEST]}...", text)


def as_notes(texts: Sequence[str]) -> tuple[str, ...]:
    """Sentences of a length and number that a person reads; the last one counts those left out."""
    most = len(texts) if len(texts) <= _MOST_NOTES + 1 else _MOST_NOTES
    shown = tuple(cut(text)[:_LONGEST_NOTE] for text in texts[:most])
    more = len(texts) - most
    return (*shown, f"{more} more notes are left out.") if more else shown


def few(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    shown = ", ".join(map(short, names[:3]))
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What is known about a concept besides its vectors."""

    name: str
    """What a prompt has after `embedding:`"""
    initial: str = ""
    """The words that its vectors started from"""
    placeholder: str = ""
    """What stood for it in the captions"""
    thumbnail: str = field(default="", repr=False)
    """A small JPEG as a data URI"""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bundle:
    """LoRA tensors under keys that a loader knows, and vectors in fp32 by name and encoder."""

    family: str
    # Without repr: the host puts the text of every input into its error messages.
    lora: Mapping[str, Tensor] = field(repr=False)
    embeddings: Embeddings = field(repr=False)
    entries: tuple[Entry, ...] = ()
    recipe: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)
    workflow: str = field(default="", repr=False)
    notes: tuple[str, ...] = ()
    outputs: Embeddings = field(default_factory=dict[str, Vectors], repr=False)
    """OneTrainer's output embeddings: rows that replace what the text encoder returns"""
    header: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Header fields of other programs, which are kept"""
    thumbnail: str = field(default="", repr=False)
    """A small JPEG as a data URI"""
    source: str = ""
    """The file that it was read from, with its hash, where that is known"""
    dated: bool = True
    """Whether its files say when they were written"""

    def __post_init__(self) -> None:
        for kind in (self.embeddings, self.outputs):
            _check_widths(kind)

    @property
    def names(self) -> list[str]:
        """Every name: those with vectors first, then those with output vectors only."""
        return list(dict.fromkeys([*self.embeddings, *self.outputs]))

    def without(self, names: Collection[str]) -> Bundle:
        """The bundle without some names; ValueError for one that it does not have."""
        for name in names:
            if name not in self.names:
                raise self.unknown_name(name)
        return replace(
            self,
            embeddings={name: v for name, v in self.embeddings.items() if name not in names},
            outputs={name: v for name, v in self.outputs.items() if name not in names},
            entries=tuple(entry for entry in self.entries if entry.name not in names),
        )

    def unknown_name(self, name: str) -> ValueError:
        """The sentence about a name that the bundle does not have."""
        return ValueError(
            f'The bundle has no name "{short(name)}": it has '
            f"{', '.join(map(short, self.names)) or 'none'}."
        )

    @property
    def entry_of(self) -> Mapping[str, Entry]:
        """What is known about each name; an entry with nothing but the name if nothing is."""
        entries = {entry.name: entry for entry in self.entries}
        return {name: entries.get(name, Entry(name=name)) for name in self.names}


def _check_widths(embeddings: Embeddings) -> None:
    widths: dict[str, tuple[str, int]] = {}
    for name, vectors in embeddings.items():
        for encoder, rows in vectors.items():
            _check_rows(name, encoder, rows)
            first, width = widths.setdefault(encoder, (name, rows.shape[1]))
            if rows.shape[1] != width:
                raise ValueError(
                    f"The embeddings '{short(first)}' and '{short(name)}' are made for different "
                    f"models: {encoder} is {width} wide in one and {rows.shape[1]} in the other."
                )


def _check_rows(name: str, encoder: str, rows: Tensor) -> None:
    if rows.ndim != 2 or not rows.shape[0] or not rows.shape[1] or not rows.is_floating_point():
        raise ValueError(
            f"The embedding '{short(name)}' holds a {rows.dtype} tensor of shape "
            f"{tuple(rows.shape)} for {encoder}: vectors (count, width) in floating point are "
            "needed."
        )


def check_name(name: str) -> None:
    """Refuse every name that some reader of bundles would cut or misread."""
    fault = _fault(name)
    if fault:
        raise ValueError(f"The name {short(name)!r} {fault}: choose another name for the concept.")


def _fault(name: str) -> str:
    if not name:
        return "is empty"
    if name != name.strip():
        return "begins or ends with a blank"
    if any(unicodedata.category(character) in _UNPRINTABLE for character in name):
        return "holds a control character"
    # Most readers end the name at the first dot of "bundle_emb.<name>.<encoder>".
    if "." in name:
        return "holds a dot, where other programs cut the name"
    if _PREFIX in name.lower():
        return f"holds {_PREFIX!r}, which marks the keys of a bundle"
    # "(embedding:2)" is the word "embedding" at weight 2 in the host's prompt syntax.
    if _is_number(name):
        return "is a number, which a prompt reads as a weight"
    return ""


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
