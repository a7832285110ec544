"""Which text encoder a vector belongs to: its width decides first, its key in the file second."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from .bundle import Embeddings, Vectors, short

CLIP_BY_WIDTH = {768: "clip_l", 1280: "clip_g", 1024: "clip_h"}
ANONYMOUS = frozenset({"string_to_param.*", "emb_params", "emp_params", "*"})
"""Keys of trainers for models with one encoder, which name none; `emp_params` is OneTrainer's"""
TOKEN = re.compile(r"<[^<>]+>")
"""A key of diffusers' textual inversion, which names no encoder either"""
_CLIP = frozenset(CLIP_BY_WIDTH.values())
_ALIASES = {"t5": "t5xxl", "gemma": "gemma2_2b"}
# Keys that number the CLIP encoders: cog-sdxl's.
_NUMBERED = frozenset({"text_encoders_0", "text_encoders_1"})
NAMED = frozenset({*_CLIP, *_ALIASES, *_ALIASES.values(), "llama"})
OUTPUT = "_out"
"""How the keys of output embeddings end"""
_OTHER_WIDTHS = frozenset({768, 1280})
_COUNT = re.compile(r"(?:.+\.)?(?:step|string_to_token\..+)")


def is_count(key: str, tensor: Tensor) -> bool:
    """Whether a tensor is a number that old trainers stored as one: a token or the step."""
    return tensor.numel() == 1 and _COUNT.fullmatch(key) is not None


def trainer_key(encoder: str) -> str:
    """The name that trainers give an encoder of the host, such as `t5` for `t5xxl`."""
    return next((old for old, new in _ALIASES.items() if new == encoder), encoder)


def encoder_of(key: str, width: int) -> str:
    """The encoder's key in the host; SD2's vectors may come as `clip_l`, Flux's as `clip_g`."""
    anonymous = key in ANONYMOUS or key in _NUMBERED or TOKEN.fullmatch(key)
    if key in _CLIP or anonymous:
        key = CLIP_BY_WIDTH.get(width, key)
    elif key in _ALIASES and width in _OTHER_WIDTHS:
        # OneTrainer writes HiDream's CLIP-G under `t5_out`; no T5 and no Gemma is that narrow.
        key = CLIP_BY_WIDTH[width]
    if anonymous and width not in CLIP_BY_WIDTH:
        widths = ", ".join(str(width) for width in sorted(CLIP_BY_WIDTH))
        raise ValueError(f"vectors of width {width} fit no known text encoder ({widths} do).")
    return _ALIASES.get(key, key)


@dataclass(frozen=True, kw_only=True, slots=True)
class SortedVectors:
    """Vectors (n, d) in fp32 by name and encoder: those of prompts, and output embeddings."""

    embeddings: dict[str, dict[str, Tensor]]
    outputs: dict[str, dict[str, Tensor]]
    notes: tuple[str, ...]


def sort_vectors(vectors_by_name: Embeddings, *, finite: bool = True) -> SortedVectors:
    """Vectors under the host's encoder keys; ValueError for tensors that are not vectors.

    NaN is refused unless `finite` is off, which allows a look at a damaged file.
    """
    embeddings: dict[str, dict[str, Tensor]] = {}
    outputs: dict[str, dict[str, Tensor]] = {}
    notes: list[str] = []
    for name, vectors in vectors_by_name.items():
        rows = {key: _rows(name, key, tensor, finite) for key, tensor in vectors.items()}
        after = {key.removesuffix(OUTPUT): r for key, r in rows.items() if key.endswith(OUTPUT)}
        # Next to an output embedding the encoder's input key holds zeros, made for no prompt.
        before = {k: r for k, r in rows.items() if not k.endswith(OUTPUT) and k not in after}
        if before:
            embeddings[name] = _by_encoder(name, before)
        if after:
            outputs[name] = _by_encoder(name, after)
            notes.append(_output_note(name, sorted(outputs[name])))
        zeros = [key for key, r in embeddings.get(name, {}).items() if not r.any()]
        notes += [f"The embedding '{short(name)}' holds only zeros for {key}." for key in zeros]
    _refuse_mixed(embeddings)
    return SortedVectors(embeddings=embeddings, outputs=outputs, notes=tuple(notes))


def _by_encoder(name: str, vectors: Vectors) -> dict[str, Tensor]:
    rows_of: dict[str, Tensor] = {}
    for key, rows in vectors.items():
        encoder = encoder_of(key, rows.shape[1])
        if encoder in rows_of:
            raise ValueError(f"the embedding '{short(name)}' holds vectors for {encoder} twice.")
        rows_of[encoder] = rows
    return rows_of


def _rows(name: str, key: str, tensor: Tensor, finite: bool) -> Tensor:
    if not tensor.is_floating_point() or tensor.ndim not in (1, 2) or not tensor.numel():
        shape = tuple(tensor.shape)
        raise ValueError(
            f"the embedding '{short(name)}' holds no vectors under {short(key)!r}, "
            f"but a {tensor.dtype} tensor of shape {shape}."
        )
    rows = tensor.reshape(-1, tensor.shape[-1]).to(torch.float32)
    if finite:
        check_finite(name, rows)
    return rows


def check_finite(name: str, rows: Tensor) -> None:
    """Refuse vectors that would turn every image black."""
    if not torch.isfinite(rows).all():
        raise ValueError(
            f"the embedding '{short(name)}' holds NaN or infinite values: train it again."
        )


def _refuse_mixed(embeddings: Embeddings) -> None:
    """SD2's encoder never occurs together with those of other families."""
    name_by_encoder = {encoder: name for name, vectors in embeddings.items() for encoder in vectors}
    other = name_by_encoder.get("clip_l") or name_by_encoder.get("clip_g")
    if other and "clip_h" in name_by_encoder:
        raise ValueError(
            f"the embeddings '{short(name_by_encoder['clip_h'])}' (Stable Diffusion 2) and "
            f"'{short(other)}' are made for different models."
        )


def _output_note(name: str, encoders: list[str]) -> str:
    return (
        f"The embedding '{short(name)}' is an output embedding for {', '.join(encoders)}, which "
        "replaces what the text encoder returns: use Encode with Output Embeddings, other nodes "
        "leave it out."
    )
