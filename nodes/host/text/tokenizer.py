"""A CLIP whose tokenizer knows a bundle's names: no files, no change to the host's own objects."""

from __future__ import annotations

import copy
import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.sd import CLIP
from comfy.sd1_clip import SDTokenizer
from torch import Tensor

_serial = itertools.count()
PLAIN = "pivotal_plain"
"""Asks a tokenizer of ours to read parentheses as text. The host's own word for this is taken by
the wrappers of LLM encoders, which always say it."""
_TENSOR_ENCODERS = ("clip", "t5", "pile")
# The host finds a name behind a blank alone, and Mistral's template ends in "[INST]".
_TOUCHED = re.compile(r"(?<=\S)(?=embedding:pivotal\d+z )")
# Tokenizers of several encoders hold those of each; none is deeper.
_DEPTH = 3


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
    bare: tuple[str, ...] = ()
    """Words that stand for the name without `embedding:`."""
    fallback: str = ""
    """What an encoder reads that has no vectors."""
    outputs: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """encoder key -> (vectors, width) of rows that replace the encoder's output"""


def named(name: str, vectors: Mapping[str, Tensor], origin: str = "", **more: Any) -> NamedVectors:
    """Vectors under a name, with an identity that no other name ever has."""
    identity = f"pivotal{next(_serial)}z"
    return NamedVectors(name=name, vectors=vectors, origin=origin, identity=identity, **more)


@dataclass(frozen=True, slots=True)
class _Known:
    """What one overlay knows, made once for all of its tokenizers."""

    entries: Mapping[str, NamedVectors]
    by_word: Mapping[str, NamedVectors]
    by_identity: Mapping[str, NamedVectors]
    pattern: re.Pattern[str] | None

    @classmethod
    def of(cls, entries: Mapping[str, NamedVectors]) -> _Known:
        by_word = {word: entry for entry in entries.values() for word in entry.bare}
        bare = tuple(by_word)
        by_word |= entries
        by_identity = {entry.identity: entry for entry in entries.values()}
        return cls(entries, by_word, by_identity, name_pattern(by_word, bare))


class _Overlay:
    """Mixed into copies of host tokenizers: names are looked up before the host seeks files."""

    pivotal: _Known

    def tokenize_with_weights(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        """The host's tokens; each `embedding:<name>` of ours is found, whatever is beside it."""
        if kwargs.pop(PLAIN, False):
            kwargs["disable_weights"] = True
        if isinstance(text, str) and self.pivotal.pattern is not None:
            text = _TOUCHED.sub(" ", self.pivotal.pattern.sub(self._spell, text))
        tokens = super().tokenize_with_weights(text, *args, **kwargs)  # type: ignore[misc]
        if self.embedding_key.startswith(_TENSOR_ENCODERS):  # type: ignore[attr-defined]
            return tokens
        return [[_as_item(token) for token in chunk] for chunk in tokens]

    def _spell(self, match: re.Match[str]) -> str:
        entry = self.pivotal.by_word[unescaped(match)]
        key: str = self.embedding_key  # type: ignore[attr-defined]
        # The host wants a blank before; a second one would be a token of its own in some encoders.
        blank = "" if match.string[: match.start()][-1:].isspace() else " "
        if key in entry.outputs and key not in entry.vectors:
            raise ValueError(
                f'"{entry.name}" is an output embedding for {key}, which acts behind the text '
                "encoder: encode this text by Encode with Output Embeddings."
            )
        if key not in entry.vectors:
            return f"{blank}{entry.fallback} " if entry.fallback else blank
        return f"{blank}{self.embedding_identifier}{entry.identity} "  # type: ignore[attr-defined]

    def _try_get_embedding(self, embedding_name: str) -> tuple[Any, ...]:
        head, _, rest = embedding_name.strip().partition(" ")
        if not head:
            # The host fails with an IndexError on "embedding:" and nothing after it.
            return _answer(None, "", "")
        entry = self.pivotal.by_identity.get(head)
        if entry is None:
            return super()._try_get_embedding(embedding_name)  # type: ignore[misc]
        found = entry.vectors.get(self.embedding_key)  # type: ignore[attr-defined]
        return _answer(found, entry.name, rest.strip())


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


def _overlay_leaf(leaf: SDTokenizer, known: _Known) -> SDTokenizer:
    made = copy.copy(leaf)
    made.__class__ = _overlay_class(type(leaf))
    if made.embedding_directory is None:
        # Without a directory the host reads "embedding:" as plain words.
        made.embedding_directory = []
    made.pivotal = known
    return made


def overlay_tokenizer(tokenizer: Any, entries: Mapping[str, NamedVectors]) -> Any:
    """A copy of a host tokenizer, however nested, that knows `entries`; the parts are shared."""
    return _overlay_tree(tokenizer, _Known.of(entries), _DEPTH)


def _overlay_tree(tokenizer: Any, known: _Known, depth: int) -> Any:
    if isinstance(tokenizer, SDTokenizer):
        return _overlay_leaf(tokenizer, known)
    made = copy.copy(tokenizer)
    for name, part in list(vars(made).items()):
        if next(_leaves(part, depth - 1), None) is not None:
            setattr(made, name, _overlay_tree(part, known, depth - 1))
    return made


def _leaves(tokenizer: Any, depth: int = _DEPTH) -> Iterator[SDTokenizer]:
    if isinstance(tokenizer, SDTokenizer):
        yield tokenizer
    elif depth > 0 and hasattr(tokenizer, "tokenize_with_weights"):
        for part in vars(tokenizer).values():
            yield from _leaves(part, depth - 1)


def tokenizer_leaves(tokenizer: Any) -> dict[str, SDTokenizer]:
    """The tokenizers of single encoders by encoder key; ValueError when none takes vectors."""
    found = {leaf.embedding_key: leaf for leaf in _leaves(tokenizer)}
    if not found:
        raise _takes_none(tokenizer)
    return found


def _takes_none(tokenizer: Any) -> ValueError:
    return ValueError(
        f"{type(tokenizer).__name__} takes no embeddings: this text encoder cannot be given "
        "trained names."
    )


def check_takes_vectors(tokenizer: Any) -> None:
    """ValueError where an overlaid tokenizer loses its names, such as LongCat's.

    Some subclasses split their text themselves and never come to the host's look-up, which only a
    trial tells.
    """
    for key, leaf in tokenizer_leaves(tokenizer).items():
        entries = leaf.pivotal.entries.values()
        entry = next((one for one in entries if key in one.vectors), None)
        if entry is None:
            continue
        chunks = leaf.tokenize_with_weights(f"embedding:{entry.name}")
        if all(isinstance(token[0], int) for chunk in chunks for token in chunk):
            raise _takes_none(leaf)


def leaves(clip: CLIP) -> dict[str, SDTokenizer]:
    """The tokenizers in a CLIP by encoder key; ValueError when none of them takes vectors."""
    return tokenizer_leaves(clip.tokenizer)


def takes_vectors(clip: CLIP) -> bool:
    """Whether any of a CLIP's encoders can be given trained names."""
    return next(_leaves(clip.tokenizer), None) is not None


def overlaid_names(clip: CLIP) -> dict[str, NamedVectors]:
    """The names that earlier overlays gave this CLIP."""
    any_leaf = next(iter(leaves(clip).values()))
    return dict(any_leaf.pivotal.entries) if isinstance(any_leaf, _Overlay) else {}


def with_names(clip: CLIP, entries: Iterable[NamedVectors], *, replace: bool = False) -> CLIP:
    """A clone of the CLIP that knows `entries` besides the names it knew; weights stay shared.

    Later clones keep the names, since the host hands the tokenizer on by reference.
    ValueError when a name is taken (unless `replace`) or a width does not fit the encoder.
    """
    known, parts = overlaid_names(clip), leaves(clip)
    for entry in entries:
        if entry.name in known and not replace:
            raise ValueError(
                f'The name "{entry.name}" of {entry.origin or "this bundle"} is already loaded '
                f"from {known[entry.name].origin or 'another bundle'}: rename one of them."
            )
        for key, vectors in (*entry.vectors.items(), *entry.outputs.items()):
            width = parts[key].embedding_size if key in parts else None
            if width is not None and vectors.shape[-1] != width:
                raise ValueError(
                    f"{entry.name}: its {key} vectors are {vectors.shape[-1]} wide and this text "
                    f"encoder needs {width}: the bundle belongs to another model family."
                )
        known[entry.name] = entry
    return with_only(clip, known)


def with_only(clip: CLIP, entries: Mapping[str, NamedVectors]) -> CLIP:
    """A clone of the CLIP that knows exactly these names."""
    made = clip.clone()
    made.tokenizer = overlay_tokenizer(clip.tokenizer, entries)
    check_takes_vectors(made.tokenizer)
    return made


EXTENSION = r"\.(?:safetensors|pt|bin)\b"
# What would make a longer name of it; a backslash before a bracket is an escape of the prompt.
_LONGER = rf"(?![\w/-]|\\(?![()])|\.(?=\w)(?!{EXTENSION[2:]}))"
_EARLIER = r"(?<![\w/.:-])"


def name_pattern(names: Iterable[str], bare: Iterable[str]) -> re.Pattern[str] | None:
    """Groups `name`, after `embedding:`, and `bare`, a whole word; the longest is found first.

    Names may hold any character. None when there are no names.
    """
    called, alone = _alternatives(names), _alternatives(bare, _EARLIER)
    if not called:
        return None
    pattern = rf"(?i:embedding):\s*(?P<name>{called})(?:{EXTENSION})?"
    return re.compile(rf"{pattern}|(?P<bare>{alone})" if alone else pattern)


def unescaped(match: re.Match[str]) -> str:
    """The name that was found, without the backslashes that a prompt puts before brackets."""
    found = match["name"] or match["bare"]
    return found.replace("\\(", "(").replace("\\)", ")")


def _alternatives(names: Iterable[str], before: str = "") -> str:
    ordered = sorted(set(names), key=len, reverse=True)
    return "|".join(_one(name, before) for name in ordered)


def _one(name: str, before: str) -> str:
    escaped = re.escape(name).replace(r"\(", r"\\?\(").replace(r"\)", r"\\?\)")
    starts, ends = _is_word(name[0]), _is_word(name[-1])
    return (before if starts else "") + escaped + (_LONGER if ends else "")


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
