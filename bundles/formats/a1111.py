"""AUTOMATIC1111's form (pull request 13568): `bundle_emb.<name>.<key>` next to the LoRA's keys.

OneTrainer writes it, and LyCORIS' tools pack a LoRA and embedding files into it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ..bundle import Bundle, short
from ..encoders import NAMED, TOKEN, is_count
from ..files.safetensors import tensor_file
from ..metadata import BUNDLE
from . import Content, Files, Format, SaveJob, Source, Writer, read_remainder

PREFIX = "bundle_emb."
_FORGE_LIMIT = 12
"""Forge counts the keys that fit no layer, and gives up on the whole LoRA above this."""
_TEXTUAL_INVERSION = ".string_to_param.*"
# An embedding of diffusers, packed by its key, in which there may be dots.
_TOKEN_LAST = re.compile(rf"(.+)\.({TOKEN.pattern})")
# OneTrainer joins all but the last two parts of a key by "_", as it does in names of layers.
_JOINED = re.compile(r"bundle_emb_(.+\.[^.]+)\.([^.]+)")


def split_key(key: str) -> tuple[str, str]:
    """Name and encoder of a `bundle_emb` key, split from the right since a name may hold dots."""
    if match := _JOINED.fullmatch(key):
        return match[1], match[2]
    tail = key.removeprefix(PREFIX)
    if tail.endswith(_TEXTUAL_INVERSION):
        name, encoder = tail.removesuffix(_TEXTUAL_INVERSION), _TEXTUAL_INVERSION[1:]
    elif match := _TOKEN_LAST.fullmatch(tail):
        name, encoder = match.groups()
    else:
        name, _, encoder = tail.rpartition(".")
    if not name or not encoder:
        raise ValueError(f"the key {key!r} is not of the form bundle_emb.<name>.<encoder>.")
    return name, encoder


def _recognizes(source: Source) -> bool:
    return any(map(_is_embedding, source.tensors))


def _read(source: Source) -> Content:
    embeddings: dict[str, dict[str, Tensor]] = {}
    for key, tensor in source.tensors.items():
        if _is_embedding(key) and not is_count(key, tensor):
            name, encoder = split_key(key)
            embeddings.setdefault(name, {})[_own_key(name, encoder)] = tensor
    others = {key: t for key, t in source.tensors.items() if not _is_embedding(key)}
    remainder = read_remainder(replace(source, tensors=others))
    return replace(
        remainder,
        embeddings={**remainder.embeddings, **embeddings},
        notes=(*remainder.notes, *_unsure(source)),
    )


def _unsure(source: Source) -> list[str]:
    """A sentence for each name in which an "_" may have been a dot."""
    joined = [match[1] for key in source.tensors if (match := _JOINED.fullmatch(key))]
    names = [name for name in dict.fromkeys(joined) if "_" in name.rpartition(".")[0]]
    return [
        f"The name '{short(name)}' may have been trained with a dot in place of a \"_\", which "
        "OneTrainer does not keep."
        for name in names
    ]


def _own_key(name: str, encoder: str) -> str:
    """diffusers' embedding has its token as its only key, which may be any word."""
    return "emb_params" if encoder == name and encoder not in NAMED else encoder


def _is_embedding(key: str) -> bool:
    return key.startswith(PREFIX) or _JOINED.fullmatch(key) is not None


def files_with(job: SaveJob, encoder_key: Callable[[str], str]) -> Files:
    """The one file, with encoders named by `encoder_key`."""
    tensors = dict(job.lora)
    for name, encoder, rows in job.vectors():
        tensors[f"{PREFIX}{name}.{encoder_key(encoder)}"] = rows
    return {job.path: tensor_file(tensors, job.metadata(BUNDLE), hashed=True)}


def _files(job: SaveJob) -> Files:
    return files_with(job, lambda encoder: encoder)


def notes(bundle: Bundle) -> list[str]:
    """Which programs refuse the file."""
    kinds = (bundle.embeddings, bundle.outputs)
    count = sum(len(vectors) for kind in kinds for vectors in kind.values())
    refusals: list[str] = []
    if count > _FORGE_LIMIT:
        refusals.append(
            f"Forge refuses a LoRA with more than {_FORGE_LIMIT} embedding tensors, and this "
            f"bundle has {count}: save it in the 'loose' or 'header' form for Forge."
        )
    if count:
        refusals.append(
            "diffusers refuses a LoRA file that holds embeddings: "
            "save it in the 'loose' or 'diffusers' form for diffusers."
        )
    if bundle.outputs:
        refusals.append("A1111 cannot load output embeddings and refuses the file.")
    return refusals


FORMAT = Format(title="a bundle (bundle_emb)", recognizes=_recognizes, read=_read)
WRITER = Writer(files=_files, notes=notes)
