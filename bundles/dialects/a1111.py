"""AUTOMATIC1111's form (pull request 13568): `bundle_emb.<name>.<key>` beside the LoRA.

OneTrainer writes it, and LyCORIS' tools pack a LoRA and embedding files into it.
"""

from __future__ import annotations

from torch import Tensor

from . import Dialect, Parts, Source

PREFIX = "bundle_emb."
_TEXTUAL_INVERSION = ".string_to_param.*"


def embedding_key(name: str, encoder: str) -> str:
    """The tensor key of one encoder's vectors."""
    return f"{PREFIX}{name}.{encoder}"


def split_key(key: str) -> tuple[str, str]:
    """Name and encoder of a `bundle_emb` key, cut from the right as a name may hold dots."""
    rest = key.removeprefix(PREFIX)
    if rest.endswith(_TEXTUAL_INVERSION):
        name, encoder = rest.removesuffix(_TEXTUAL_INVERSION), _TEXTUAL_INVERSION[1:]
    else:
        name, _, encoder = rest.rpartition(".")
    if not name or not encoder:
        raise ValueError(f"the key {key!r} is not of the form bundle_emb.<name>.<encoder>.")
    return name, encoder


def _recognizes(source: Source) -> bool:
    return any(key.startswith(PREFIX) for key in source.tensors)


def _read(source: Source) -> Parts:
    lora: dict[str, Tensor] = {}
    embeddings: dict[str, dict[str, Tensor]] = {}
    for key, tensor in source.tensors.items():
        if key.startswith(PREFIX):
            name, encoder = split_key(key)
            embeddings.setdefault(name, {})[encoder] = tensor
        else:
            lora[key] = tensor
    return Parts(lora=lora, embeddings=embeddings)


DIALECT = Dialect(title="a bundle (bundle_emb)", recognizes=_recognizes, read=_read)
