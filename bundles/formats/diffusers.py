"""diffusers: textual inversion named by its token, its LoRA, and the pair of the advanced scripts.

Those write `<name>_emb.safetensors` with the vectors of all concepts in one tensor.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..encoders import ANONYMOUS, CLIP_BY_WIDTH, NAMED, TOKEN
from ..layers.diffusers_keys import is_diffusers_lora, to_known_keys, with_alphas
from . import Dialect, FolderDialect, Parts, Source, Tensors, Together
from .plain import is_adapter

EMBEDDINGS = "_emb"
_WEIGHTS = "pytorch_lora_weights.safetensors"


def _is_lora(source: Source) -> bool:
    return is_diffusers_lora(source.tensors)


def _read_lora(source: Source) -> Parts:
    lora = with_alphas(source.tensors, source.metadata)
    return Parts(lora=to_known_keys(lora), embeddings={})


DIALECT = Dialect(title="a LoRA of diffusers", recognizes=_is_lora, read=_read_lora)


def is_token(tensors: Tensors) -> bool:
    """Whether every tensor is called by a token; one alone may be called by any word."""
    if not tensors or is_adapter(tensors):
        return False
    keys, known = list(tensors), NAMED | ANONYMOUS
    named = all(TOKEN.fullmatch(key) for key in keys)
    alone = len(keys) == 1 and keys[0] not in known and not re.search(r"[.:]", keys[0])
    return (named or alone) and all(_is_vector(tensors[key].shape) for key in keys)


def _is_vector(shape: tuple[int, ...]) -> bool:
    return len(shape) in (1, 2) and shape[-1] in CLIP_BY_WIDTH


def _find(path: Path) -> Together | None:
    if path.is_dir():
        found = sorted(path.glob(f"*{EMBEDDINGS}.safetensors"))
        return _pair(path, found[0]) if len(found) == 1 else None
    own = path.with_name(f"{path.stem}{EMBEDDINGS}.safetensors")
    if path.suffix == ".safetensors" and own.is_file():
        return Together(loras=[path], embeddings=[own], maybe_several=True)
    if path.name == _WEIGHTS:
        return _find(path.parent)
    return None


def _pair(folder: Path, embeddings: Path) -> Together | None:
    name = embeddings.stem.removesuffix(EMBEDDINGS)
    loras = [folder / _WEIGHTS, folder / f"{name}.safetensors"]
    loras = [lora for lora in loras if lora.is_file()][:1]
    return Together(loras=loras, embeddings=[embeddings], maybe_several=True) if loras else None


FOLDER = FolderDialect(title="a pair of diffusers' scripts", find=_find)
