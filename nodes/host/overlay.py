"""A CLIP whose tokenizer knows a bundle's names: no files, no change to the host's own objects."""

from __future__ import annotations

import copy
import functools
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from comfy.sd import CLIP
from comfy.sd1_clip import SDTokenizer
from torch import Tensor

_serial = itertools.count()
_EXTENSION = r"\.(?:safetensors|pt|bin)\b"
# What would make a longer name of it; a backslash before a bracket is an escape of the prompt.
_LONGER = rf"(?![\w/-]|\\(?![()])|\.(?=\w)(?!{_EXTENSION[2:]}))"
_TENSOR_ENCODERS = ("clip", "t5", "pile")


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedVectors:
    """One name with its vectors, as an overlay holds it."""

    name: str
    vectors: Mapping[str, Tensor]
    """encoder key -> (vectors, width)"""
    origin: str = ""
    """Where the name comes from, for messages."""
    identity: str = ""
    """Internal word without any character that prompts give a meaning to."""


def named(name: str, vectors: Mapping[str, Tensor], origin: str = "") -> NamedVectors:
    """Vectors under a name, with an identity that no other name ever has."""
    identity = f"pivotal{next(_serial)}z"
    return NamedVectors(name=name, vectors=vectors, origin=origin, identity=identity)


class _Overlay:
    """Mixed into copies of host tokenizers: names are looked up before the host seeks files."""

    pivotal_entries: Mapping[str, NamedVectors]
    pivotal_pattern: re.Pattern[str] | None

    def tokenize_with_weights(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        """The host's tokens; each `embedding:<name>` of ours is found, whatever is beside it."""
        if isinstance(text, str) and self.pivotal_pattern is not None:
            text = self.pivotal_pattern.sub(self._identity, text)
        tokens = super().tokenize_with_weights(text, *args, **kwargs)  # type: ignore[misc]
        if self.embedding_key.startswith(_TENSOR_ENCODERS):  # type: ignore[attr-defined]
            return tokens
        return [[_as_item(token) for token in chunk] for chunk in tokens]

    def _identity(self, match: re.Match[str]) -> str:
        name = match["name"].replace("\\(", "(").replace("\\)", ")")
        # The host wants a blank before; a second one would be a token of its own in some encoders.
        blank = "" if match.string[: match.start()][-1:].isspace() else " "
        word = f"{self.embedding_identifier}{self.pivotal_entries[name].identity}"  # type: ignore[attr-defined]
        return f"{blank}{word} "

    def _try_get_embedding(self, embedding_name: str) -> tuple[Any, ...]:
        head, _, rest = embedding_name.strip().partition(" ")
        if not head:
            # The host fails with an IndexError on "embedding:" and nothing after it.
            return _answer(None, "", "")
        for entry in self.pivotal_entries.values():
            if entry.identity == head:
                return _answer(entry.vectors.get(self.embedding_key), entry.name, rest.strip())  # type: ignore[attr-defined]
        return super()._try_get_embedding(embedding_name)  # type: ignore[misc]


def _answer(found: Tensor | None, name: str, rest: str) -> tuple[Any, ...]:
    """As this host's tokenizer wants it: older ones leave the name out."""
    return (found, name, rest) if _parts_of_an_answer() == 3 else (found, rest)


@functools.cache
def _parts_of_an_answer() -> int:
    """Ask the host's own method, of a tokenizer that has no folder to look into."""
    bare = SDTokenizer.__new__(SDTokenizer)
    bare.embedding_directory, bare.embedding_size, bare.embedding_key = [], 1, ""
    return len(bare._try_get_embedding("nothing"))


def _as_item(token: tuple[Any, ...]) -> tuple[Any, ...]:
    """LLM wrappers compare tokens with numbers, which a tensor cannot bear; the dict form can."""
    if torch.is_tensor(token[0]):
        return ({"type": "embedding", "data": token[0]}, *token[1:])
    return token


_overlaid: dict[type, type] = {}


def _overlay_class(kind: type) -> type:
    if issubclass(kind, _Overlay):
        return kind
    if kind not in _overlaid:
        _overlaid[kind] = type(kind.__name__, (_Overlay, kind), {"__module__": kind.__module__})
    return _overlaid[kind]


def _pattern(entries: Mapping[str, NamedVectors]) -> re.Pattern[str] | None:
    """`embedding:` and one of the names, the longest first; names may hold any character."""
    if not entries:
        return None
    names = [_name_pattern(name) for name in sorted(entries, key=len, reverse=True)]
    return re.compile(rf"(?i:embedding):\s*(?P<name>{'|'.join(names)})(?:{_EXTENSION})?")


def _name_pattern(name: str) -> str:
    escaped = re.escape(name).replace(r"\(", r"\\?\(").replace(r"\)", r"\\?\)")
    ends_in_word = name[-1].isalnum() or name[-1] == "_"
    return escaped + (_LONGER if ends_in_word else "")


def _overlay_leaf(leaf: SDTokenizer, entries: Mapping[str, NamedVectors]) -> SDTokenizer:
    made = copy.copy(leaf)
    made.__class__ = _overlay_class(type(leaf))
    if made.embedding_directory is None:
        # Without a directory the host reads "embedding:" as plain words.
        made.embedding_directory = []
    made.pivotal_entries, made.pivotal_pattern = entries, _pattern(entries)
    return made


def _overlay_tree(tokenizer: Any, entries: Mapping[str, NamedVectors]) -> Any:
    if isinstance(tokenizer, SDTokenizer):
        return _overlay_leaf(tokenizer, entries)
    made = copy.copy(tokenizer)
    for name, part in vars(made).items():
        if isinstance(part, SDTokenizer):
            setattr(made, name, _overlay_leaf(part, entries))
    return made


def leaves(clip: CLIP) -> dict[str, SDTokenizer]:
    """The tokenizers in a CLIP by encoder key; ValueError when none of them takes vectors."""
    tokenizer = clip.tokenizer
    parts = [tokenizer] if isinstance(tokenizer, SDTokenizer) else list(vars(tokenizer).values())
    found = {part.embedding_key: part for part in parts if isinstance(part, SDTokenizer)}
    if not found:
        raise ValueError(
            f"{type(tokenizer).__name__} takes no embeddings: this text encoder cannot be given "
            "trained names."
        )
    return found


def overlaid_names(clip: CLIP) -> dict[str, NamedVectors]:
    """The names that earlier overlays gave this CLIP."""
    any_leaf = next(iter(leaves(clip).values()))
    return dict(getattr(any_leaf, "pivotal_entries", {}))


def with_names(clip: CLIP, entries: Iterable[NamedVectors]) -> CLIP:
    """A clone of the CLIP that knows `entries` besides the names it knew; weights stay shared.

    Later clones keep the names, since the host hands the tokenizer on by reference.
    ValueError when a name is taken or a width does not fit the encoder.
    """
    known, parts = overlaid_names(clip), leaves(clip)
    for entry in entries:
        if entry.name in known:
            raise ValueError(
                f'The name "{entry.name}" of {entry.origin or "this bundle"} is already loaded '
                f"from {known[entry.name].origin or 'another bundle'}: rename one of them."
            )
        for key, vectors in entry.vectors.items():
            width = parts[key].embedding_size if key in parts else None
            if width is not None and vectors.shape[-1] != width:
                raise ValueError(
                    f"{entry.name}: its {key} vectors are {vectors.shape[-1]} wide and this text "
                    f"encoder needs {width}: the bundle belongs to another model family."
                )
        known[entry.name] = entry
    made = clip.clone()
    made.tokenizer = _overlay_tree(clip.tokenizer, known)
    return made
