"""Which text encoder a vector belongs to: its width decides first, the key of the file second."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

CLIP_BY_WIDTH = {768: "clip_l", 1280: "clip_g", 1024: "clip_h"}
# Keys that name no encoder, written for models that have one; OneTrainer misspells the second.
ANONYMOUS = frozenset({"string_to_param.*", "emb_params", "emp_params"})
_CLIP = frozenset(CLIP_BY_WIDTH.values())
_ALIASES = {"t5": "t5xxl", "gemma": "gemma2_2b"}
NAMED = frozenset({*_CLIP, *_ALIASES, *_ALIASES.values(), "llama"})
OUTPUT = "_out"

Vectors = Mapping[str, Tensor]


def encoder_of(key: str, width: int) -> str:
    """The encoder's key in the host; SD2's vectors may come as `clip_l`, Flux's as `clip_g`."""
    if key in _CLIP or key in ANONYMOUS:
        key = CLIP_BY_WIDTH.get(width, key)
    if key in ANONYMOUS:
        known = ", ".join(str(width) for width in sorted(CLIP_BY_WIDTH))
        raise ValueError(f"vectors of width {width} fit no known text encoder ({known} do).")
    return _ALIASES.get(key, key)


def sort_vectors(
    found: Mapping[str, Vectors],
) -> tuple[dict[str, dict[str, Tensor]], tuple[str, ...]]:
    """Vectors (n, d) in fp32 by name and encoder, and sentences about what was left out."""
    embeddings: dict[str, dict[str, Tensor]] = {}
    notes: list[str] = []
    for name, vectors in found.items():
        inputs = _inputs(name, vectors, notes)
        if inputs:
            embeddings[name] = inputs
    _refuse_mixed(embeddings)
    return embeddings, tuple(notes)


def _inputs(name: str, vectors: Vectors, notes: list[str]) -> dict[str, Tensor]:
    outputs = {key.removesuffix(OUTPUT) for key in vectors if key.endswith(OUTPUT)}
    if outputs:
        notes.append(_output_note(name, sorted(outputs)))
    inputs: dict[str, Tensor] = {}
    for key, tensor in vectors.items():
        # Beside an output embedding the encoder's input key holds zeros, made for no prompt.
        if key.endswith(OUTPUT) or key in outputs:
            continue
        rows = _rows(name, key, tensor)
        encoder = encoder_of(key, rows.shape[1])
        if encoder in inputs:
            raise ValueError(f"the embedding '{name}' holds vectors for {encoder} twice.")
        if not rows.any():
            notes.append(f"The embedding '{name}' holds only zeros for {encoder}.")
        inputs[encoder] = rows
    return inputs


def _rows(name: str, key: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point() or tensor.ndim not in (1, 2) or not tensor.numel():
        shape = tuple(tensor.shape)
        raise ValueError(
            f"the embedding '{name}' holds no vectors under {key!r}, "
            f"but a {tensor.dtype} tensor of shape {shape}."
        )
    rows = tensor.reshape(-1, tensor.shape[-1]).to(torch.float32)
    check_finite(name, rows)
    return rows


def check_finite(name: str, rows: Tensor) -> None:
    """Refuse vectors that would turn every picture black."""
    if not torch.isfinite(rows).all():
        raise ValueError(f"the embedding '{name}' holds NaN or infinite values: train it again.")


def _refuse_mixed(embeddings: Mapping[str, Vectors]) -> None:
    """SD2's encoder never stands beside those of the other families."""
    of_encoder = {encoder: name for name, vectors in embeddings.items() for encoder in vectors}
    other = of_encoder.get("clip_l") or of_encoder.get("clip_g")
    if other and "clip_h" in of_encoder:
        raise ValueError(
            f"the embeddings '{of_encoder['clip_h']}' (Stable Diffusion 2) and '{other}' "
            "are made for different models."
        )


def _output_note(name: str, encoders: list[str]) -> str:
    return (
        f"The embedding '{name}' is an output embedding for {', '.join(encoders)}, which replaces "
        "what the text encoder returns: it is left out there. Train it as an input embedding."
    )
