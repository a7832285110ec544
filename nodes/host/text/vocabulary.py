"""The words of a CLIP's text encoders, to measure vectors against."""

from __future__ import annotations

from functools import partial

from comfy.sd import CLIP

from ....bundles.inspection import Vocabulary
from .port import encoder_of, word_of
from .tokenizer import leaves


def vocabularies(clip: CLIP) -> dict[str, Vocabulary]:
    """Token table and spelling by encoder key; the tables stay where they are."""
    found: dict[str, Vocabulary] = {}
    for key, tokenizer in leaves(clip).items():
        encoder = encoder_of(clip.cond_stage_model, key, tokenizer.embedding_size)
        found[key] = Vocabulary(
            table=encoder.transformer.get_input_embeddings().weight.detach(),
            word=partial(word_of, tokenizer),
        )
    return found
