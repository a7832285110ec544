"""A CLIP whose tokenizer knows a bundle's names, without files or changes to the host's objects.

The host looks up `embedding:<name>` in files, for all CLIPs alike. Here names belong to one CLIP:
copies of its tokenizers find them first, under a word of ours that no prompt syntax can split.
"""

from __future__ import annotations

import copy
import functools
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import folder_paths
import torch
from comfy.sd import CLIP
from comfy.sd1_clip import SDTokenizer
from torch import Tensor

from ....bundles.bundle import short
from ....training.dataset.captions.placeholders import edges

_serial = itertools.count()
PLAIN = "pivotal_plain"
"""Option of our tokenizers to read parentheses as text. The host's own option for this cannot be
used, since the wrappers of LLM encoders always set it."""
_TENSOR_ENCODERS = ("clip", "t5", "pile")
# The host finds a name only after a blank, and Mistral's template ends in "[INST]".
_GLUED = re.compile(r"(?<=\S)(?=embedding:pivotal\d+z )")
# A tokenizer for several encoders holds one for each of them; none nests deeper.
_DEPTH = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedVectors:
    """A name with its vectors, as a tokenizer holds it."""

    name: str
    vectors: Mapping[str, Tensor]
    """Encoder key to (vectors, width)."""
    origin: str = ""
    """Where the name comes from, for messages."""
    identity: str = ""
    """Internal word without any character that has a meaning in prompts."""
    bare: tuple[str, ...] = ()
    """Words that stand for the name without `embedding:`."""
    fallback: str = ""
    """Text for encoders without vectors of their own."""
    outputs: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Encoder key to (vectors, width) of the rows that replace the encoder's output."""


def named(name: str, vectors: Mapping[str, Tensor], origin: str = "", **more: Any) -> NamedVectors:
    """Vectors under a name, with an identity that is never used again."""
    identity = f"pivotal{next(_serial)}z"
    return NamedVectors(name=name, vectors=vectors, origin=origin, identity=identity, **more)


@dataclass(frozen=True, slots=True)
class _KnownNames:
    """The names that the tokenizers of one CLIP know."""

    entries: Mapping[str, NamedVectors]
    by_word: Mapping[str, NamedVectors]
    by_identity: Mapping[str, NamedVectors]
    pattern: re.Pattern[str] | None

    @classmethod
    def of(cls, entries: Mapping[str, NamedVectors]) -> _KnownNames:
        by_word = {word: entry for entry in entries.values() for word in entry.bare}
        bare = tuple(by_word)
        by_word |= entries
        by_identity = {entry.identity: entry for entry in entries.values()}
        return cls(entries, by_word, by_identity, name_pattern(by_word, bare))

    def found(self, match: re.Match[str]) -> NamedVectors | None:
        """The entry of a match; None for a file's name, which the host's own search finds."""
        if match.groupdict().get("file"):
            return None
        word = unescaped(match)
        if word in self.by_word:
            return self.by_word[word]
        # In other capitals, unless a file has exactly these.
        if word in _file_names():
            return None
        alike = (w for w in sorted(self.by_word) if w.casefold() == word.casefold())
        return self.by_word.get(next(alike, ""))


def _file_names() -> set[str]:
    """The names by which prompts find embedding files."""
    files = folder_paths.get_filename_list("embeddings")
    return {name for file in files for name in (file, os.path.splitext(file)[0])}


class _NamedTokenizer:
    """Mixed into copies of host tokenizers: looks names up before the host searches files."""

    pivotal: _KnownNames

    def tokenize_with_weights(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        """The host's tokens, with each `embedding:<name>` of ours found wherever it stands."""
        if kwargs.pop(PLAIN, False):
            kwargs["disable_weights"] = True
        if isinstance(text, str) and self.pivotal.pattern is not None:
            text = _GLUED.sub(" ", self.pivotal.pattern.sub(self._spell, text))
        tokens = super().tokenize_with_weights(text, *args, **kwargs)  # type: ignore[misc]
        if self.embedding_key.startswith(_TENSOR_ENCODERS):  # type: ignore[attr-defined]
            return tokens
        return [[_as_item(token) for token in chunk] for chunk in tokens]

    def _spell(self, match: re.Match[str]) -> str:
        entry = self.pivotal.found(match)
        if entry is None:
            return match.group()
        key: str = self.embedding_key  # type: ignore[attr-defined]
        # The host needs a blank before it; in some encoders a second blank would be a token.
        blank = "" if match.string[: match.start()][-1:].isspace() else " "
        if key in entry.outputs and key not in entry.vectors:
            raise ValueError(
                f'"{short(entry.name)}" is an output embedding for {key}, which acts after the '
                "text encoder: use Encode with Output Embeddings for this text."
            )
        if key not in entry.vectors:
            return f"{blank}{entry.fallback} " if entry.fallback else blank
        return f"{blank}{self.embedding_identifier}{entry.identity} "  # type: ignore[attr-defined]

    def _try_get_embedding(self, embedding_name: str) -> tuple[Any, ...]:
        head, _, tail = embedding_name.strip().partition(" ")
        if not head:
            # The host would fail with an IndexError if nothing follows "embedding:".
            return _answer(None, "", "")
        entry = self.pivotal.by_identity.get(head)
        if entry is None:
            return super()._try_get_embedding(embedding_name)  # type: ignore[misc]
        vectors = entry.vectors.get(self.embedding_key)  # type: ignore[attr-defined]
        return _answer(vectors, entry.name, tail.strip())


def _answer(vectors: Tensor | None, name: str, tail: str) -> tuple[Any, ...]:
    """The tuple that this host expects; older ones leave the name out."""
    return (vectors, name, tail) if _parts_of_an_answer() == 3 else (vectors, tail)


@functools.cache
def _parts_of_an_answer() -> int:
    """Count what the host's own method returns, with a tokenizer that has no folder to search."""
    bare = SDTokenizer.__new__(SDTokenizer)
    bare.embedding_directory, bare.embedding_size, bare.embedding_key = [], 1, ""
    return len(bare._try_get_embedding("nothing"))


def _as_item(token: tuple[Any, ...]) -> tuple[Any, ...]:
    """The dict form of a vector: LLM wrappers compare tokens with numbers, where a tensor fails."""
    if torch.is_tensor(token[0]):
        return ({"type": "embedding", "data": token[0]}, *token[1:])
    return token


_overlaid: dict[type, type] = {}


def _overlay_class(kind: type) -> type:
    if issubclass(kind, _NamedTokenizer):
        return kind
    if kind not in _overlaid:
        _overlaid[kind] = type(
            kind.__name__, (_NamedTokenizer, kind), {"__module__": kind.__module__}
        )
    return _overlaid[kind]


def _overlay_leaf(leaf: SDTokenizer, known: _KnownNames) -> SDTokenizer:
    overlay: Any = copy.copy(leaf)
    overlay.__class__ = _overlay_class(type(leaf))
    if overlay.embedding_directory is None:
        # Without a directory the host reads "embedding:" as ordinary text.
        overlay.embedding_directory = []
    overlay.pivotal = known
    return overlay


def overlay_tokenizer(tokenizer: Any, entries: Mapping[str, NamedVectors]) -> Any:
    """A copy of a host tokenizer, however nested, that knows `entries`; its data is shared."""
    return _overlay_tree(tokenizer, _KnownNames.of(entries), _DEPTH)


def _overlay_tree(tokenizer: Any, known: _KnownNames, depth: int) -> Any:
    if isinstance(tokenizer, SDTokenizer):
        return _overlay_leaf(tokenizer, known)
    overlay = copy.copy(tokenizer)
    for name, part in list(vars(overlay).items()):
        if next(_leaves(part, depth - 1), None) is not None:
            setattr(overlay, name, _overlay_tree(part, known, depth - 1))
    return overlay


def _leaves(tokenizer: Any, depth: int = _DEPTH) -> Iterator[SDTokenizer]:
    if isinstance(tokenizer, SDTokenizer):
        yield tokenizer
    elif depth > 0 and hasattr(tokenizer, "tokenize_with_weights"):
        for part in vars(tokenizer).values():
            yield from _leaves(part, depth - 1)


def tokenizer_leaves(tokenizer: Any) -> dict[str, SDTokenizer]:
    """The tokenizers of single encoders by encoder key; ValueError if none takes vectors."""
    by_key = {leaf.embedding_key: leaf for leaf in _leaves(tokenizer)}
    if not by_key:
        raise _takes_none(tokenizer)
    return by_key


def _takes_none(tokenizer: Any) -> ValueError:
    return ValueError(
        f"{type(tokenizer).__name__} takes no embeddings: this text encoder cannot be given "
        "trained names."
    )


def check_takes_vectors(tokenizer: Any) -> None:
    """Raise ValueError for a tokenizer that never finds its names, such as LongCat's."""
    # Some subclasses split the text themselves and skip the host's look-up. Only a trial shows it.
    overlaid: dict[str, Any] = {**tokenizer_leaves(tokenizer)}
    for key, leaf in overlaid.items():
        entries = leaf.pivotal.entries.values()
        entry = next((entry for entry in entries if key in entry.vectors), None)
        if entry is None:
            continue
        chunks = leaf.tokenize_with_weights(f"embedding:{entry.name}")
        if all(isinstance(token[0], int) for chunk in chunks for token in chunk):
            raise _takes_none(leaf)


def encoder_tokenizers(clip: CLIP) -> dict[str, SDTokenizer]:
    """The tokenizers of a CLIP by encoder key; ValueError if none of them takes vectors."""
    return tokenizer_leaves(clip.tokenizer)


def takes_vectors(clip: CLIP) -> bool:
    """Whether any encoder of a CLIP can be given trained names."""
    return next(_leaves(clip.tokenizer), None) is not None


def overlaid_names(clip: CLIP) -> dict[str, NamedVectors]:
    """The names that this CLIP already knows."""
    any_leaf = next(iter(encoder_tokenizers(clip).values()))
    return dict(any_leaf.pivotal.entries) if isinstance(any_leaf, _NamedTokenizer) else {}


def mentioned_names(clip: CLIP, text: str) -> set[str]:
    """The names of ours that a prompt mentions."""
    known = next(iter(encoder_tokenizers(clip).values()))
    if not isinstance(known, _NamedTokenizer) or known.pivotal.pattern is None:
        return set()
    found = map(known.pivotal.found, known.pivotal.pattern.finditer(text))
    return {entry.name for entry in found if entry is not None}


def with_names(clip: CLIP, entries: Iterable[NamedVectors], *, replace: bool = False) -> CLIP:
    """A clone of the CLIP that knows `entries` in addition to its names; weights are shared.

    Clones of it keep the names, since the host passes the tokenizer on by reference. Raises
    ValueError if a name is taken (unless `replace`) or a width does not fit the encoder.
    """
    known, parts = overlaid_names(clip), encoder_tokenizers(clip)
    for entry in entries:
        if entry.name in known and not replace:
            raise ValueError(
                f'The name "{short(entry.name)}" of {entry.origin or "this bundle"} is already '
                f"loaded from {known[entry.name].origin or 'another bundle'}: rename one of them."
            )
        for key, vectors in (*entry.vectors.items(), *entry.outputs.items()):
            width = parts[key].embedding_size if key in parts else None
            if width is not None and vectors.shape[-1] != width:
                raise ValueError(
                    f"{short(entry.name)}: its {key} vectors are {vectors.shape[-1]} wide and this "
                    f"text encoder needs {width}: the bundle belongs to another model family."
                )
        known[entry.name] = entry
    return with_exactly(clip, known)


def with_exactly(clip: CLIP, entries: Mapping[str, NamedVectors]) -> CLIP:
    """A clone of the CLIP that knows exactly these names."""
    clone = clip.clone()
    clone.tokenizer = overlay_tokenizer(clip.tokenizer, entries)
    check_takes_vectors(clone.tokenizer)
    return clone


EXTENSION = r"\.(?:safetensors|pt|bin)\b"
# What would make the name longer; a backslash before a bracket is an escape in prompts.
_LONGER = rf"(?![/-]|\\(?![()])|\.(?=\w)(?!{EXTENSION[2:]}))"


def name_pattern(names: Iterable[str], bare: Iterable[str]) -> re.Pattern[str] | None:
    """The pattern of names in a prompt, of any characters; None if there are no names.

    Its group `name` follows `embedding:`, in any capitals unless a name has the same; `bare` is a
    whole word by the rule of captions. Longer names come first.
    """
    called = "|".join(_called(name) for name in _longest_first(names))
    alone = "|".join("".join(_around(word)) for word in _longest_first(bare))
    if not called:
        return None
    pattern = rf"(?i:embedding):\s*(?P<name>{called}|(?i:{called}))(?:{EXTENSION})?"
    # A file of the host's may have one of our words in its name.
    files = r"(?i:embedding):\s*[^\s,]+"
    return re.compile(rf"{pattern}|(?P<file>{files})|(?P<bare>{alone})" if alone else pattern)


def unescaped(match: re.Match[str]) -> str:
    """The name in a match, without the backslashes that a prompt has before brackets."""
    name = match["name"] or match["bare"]
    return name.replace("\\(", "(").replace("\\)", ")")


def _longest_first(names: Iterable[str]) -> list[str]:
    return sorted(set(names), key=len, reverse=True)


def _called(name: str) -> str:
    """A name behind `embedding:`, where a file's name could be longer than a word."""
    _, escaped, behind = _around(name)
    return f"{escaped}{behind}{_LONGER}" if behind else escaped


def _around(word: str) -> tuple[str, str, str]:
    """A word as a prompt writes it, where brackets may be escaped, and its edges."""
    before, behind = edges(word)
    return before, re.escape(word).replace(r"\(", r"\\?\(").replace(r"\)", r"\\?\)"), behind
