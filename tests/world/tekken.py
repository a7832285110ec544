"""Mistral's form of a vocabulary, tiny, and a way for the host to read it."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SPECIAL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
RESERVED, BYTES = 12, 256
"""The host pads with the last of the reserved numbers."""


def tekken() -> Tensor:
    """The special words first, and the 256 bytes, as the encoder's file carries them."""
    words = [*SPECIAL, *(f"<SPECIAL_{n}>" for n in range(len(SPECIAL), RESERVED))]
    plain = [base64.b64encode(bytes([n])).decode() for n in range(BYTES)]
    made = {
        "config": {"pattern": r"\S+|\s+", "default_vocab_size": len(plain) + len(words)},
        "special_tokens": [{"token_str": word, "rank": n} for n, word in enumerate(words)],
        "vocab": [{"token_bytes": word, "rank": n} for n, word in enumerate(plain)],
    }
    return torch.frombuffer(bytearray(json.dumps(made).encode()), dtype=torch.uint8)


@contextmanager
def readable() -> Iterator[None]:
    """Have the host read such vocabularies, also with a transformers that it cannot call.

    The host hands transformers a dict. Since 5.24 that wants the file itself, so no Mistral can be
    loaded there. In its place the same file goes to the same converter the new way.
    """
    import comfy.text_encoders.flux as flux

    theirs = getattr(flux, "load_mistral_tokenizer", None)
    try:
        if theirs is not None:
            theirs(tekken())
    except TypeError:
        flux.load_mistral_tokenizer = _from_file
    try:
        yield
    finally:
        if theirs is not None:
            flux.load_mistral_tokenizer = theirs


def _from_file(data: Tensor) -> dict[str, Any]:
    """What the host's reader returns."""
    from transformers.integrations.mistral import MistralConverter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tekken.json")
        path.write_bytes(data.numpy().tobytes())
        return {"tokenizer_object": MistralConverter(str(path)).converted(), "legacy": False}
