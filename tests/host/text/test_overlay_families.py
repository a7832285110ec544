"""Names on the tokenizer of every text encoder family, with vocabularies of a few words at need."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import pytest
import torch

from pack.nodes.host.text.tokenizer import (
    check_takes_vectors,
    named,
    overlay_tokenizer,
    tokenizer_leaves,
)
from world.encoders import sentencepiece_model
from world.tekken import readable, tekken

FAMILIES = {
    "sd1_clip": "comfy.sd1_clip:SD1Tokenizer",
    "sdxl": "comfy.sdxl_clip:SDXLTokenizer",
    "sd2": "comfy.text_encoders.sd2_clip:SD2Tokenizer",
    "sd3": "comfy.text_encoders.sd3_clip:SD3Tokenizer",
    "flux": "comfy.text_encoders.flux:FluxTokenizer",
    "hidream": "comfy.text_encoders.hidream:HiDreamTokenizer",
    "pixart": "comfy.text_encoders.pixart_t5:PixArtTokenizer",
    "mochi": "comfy.text_encoders.genmo:MochiT5Tokenizer",
    "ltxv": "comfy.text_encoders.lt:LTXVT5Tokenizer",
    "cosmos": "comfy.text_encoders.cosmos:CosmosT5Tokenizer",
    "cogvideo": "comfy.text_encoders.cogvideo:CogVideoXT5Tokenizer",
    "anima": "comfy.text_encoders.anima:AnimaTokenizer",
    "aura": "comfy.text_encoders.aura_t5:AuraT5Tokenizer",
    "stable audio": "comfy.text_encoders.sa_t5:SAT5Tokenizer",
    "z image": "comfy.text_encoders.z_image:ZImageTokenizer",
    "qwen image": "comfy.text_encoders.qwen_image:QwenImageTokenizer",
    "hunyuan image": "comfy.text_encoders.hunyuan_image:HunyuanImageTokenizer",
    "hunyuan video": "comfy.text_encoders.hunyuan_video:HunyuanVideoTokenizer",
    "hunyuan video 1.5": "comfy.text_encoders.hunyuan_video:HunyuanVideo15Tokenizer",
    "kandinsky5": "comfy.text_encoders.kandinsky5:Kandinsky5Tokenizer",
    "omnigen2": "comfy.text_encoders.omnigen2:Omnigen2Tokenizer",
    "ovis": "comfy.text_encoders.ovis:OvisTokenizer",
    "cascade": "comfy.sdxl_clip:StableCascadeTokenizer",
    "flux2": "comfy.text_encoders.flux:Flux2Tokenizer",
    "klein": "comfy.text_encoders.flux:KleinTokenizer",
    "lumina2": "comfy.text_encoders.lumina2:LuminaTokenizer",
    "newbie": "comfy.text_encoders.newbie:NewBieTokenizer",
    "wan": "comfy.text_encoders.wan:WanT5Tokenizer",
    "hunyuan dit": "comfy.text_encoders.hydit:HyditTokenizer",
    "ace": "comfy.text_encoders.ace:AceT5Tokenizer",
    "ideogram4": "comfy.text_encoders.ideogram4:Ideogram4Tokenizer",
    "ideogram4 vl": "comfy.text_encoders.ideogram4:Ideogram4Qwen3VLTokenizer",
    "krea2": "comfy.text_encoders.krea2:Krea2Tokenizer",
    "qwen3 vl": "comfy.text_encoders.qwen3vl:Qwen3VLTokenizer",
}
# What does not read the prompt: ByT5 takes what stands in quotes, ACE's other one the lyrics.
DEAF = {"byt5_small", "lyrics"}


def tokenizer_of(place: str) -> Any:
    module, name = place.split(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        pytest.skip(f"this host has no {place}")
    with readable():
        return kind(embedding_directory=None, tokenizer_data=vocabularies())


@functools.cache
def vocabularies() -> dict[str, torch.Tensor]:
    """What a checkpoint carries for the encoders whose vocabulary the host does not ship."""
    words = sentencepiece_model()
    whose = ("spiece_model", "mt5xl.spiece_model", "gemma_spiece_model", "jina_spiece_model")
    return {**dict.fromkeys(whose, words), "tekken_model": tekken()}


def vectors_in(tokens: Any) -> int:
    """How many of all tokens are vectors, as tensors or in the form for language models."""
    return sum(
        torch.is_tensor(token[0]) or isinstance(token[0], dict)
        for chunks in (tokens.values() if isinstance(tokens, dict) else [tokens])
        for chunk in chunks
        for token in chunk
    )


@pytest.mark.parametrize("place", FAMILIES.values(), ids=FAMILIES)
def test_names_are_found_by_every_encoder_of_a_family(place):
    tokenizer = tokenizer_of(place)
    leaves = tokenizer_leaves(tokenizer)
    entry = named(
        "my cat", {key: torch.ones(3, leaf.embedding_size) for key, leaf in leaves.items()}
    )
    made = overlay_tokenizer(tokenizer, {"my cat": entry})
    check_takes_vectors(made)
    readers = leaves.keys() - DEAF
    assert type(made) is type(tokenizer) or issubclass(type(made), type(tokenizer))
    for prompt in (
        "a embedding:my cat sleeps",
        "embedding:my cat",
        "a,embedding:my cat.",
        "x\nembedding:my cat",
        # As captions are spelled in training, whatever a template puts before them.
        f"embedding:{entry.identity} sleeps",
    ):
        assert vectors_in(made.tokenize_with_weights(prompt)) == 3 * len(readers), prompt
    assert vectors_in(tokenizer.tokenize_with_weights("a embedding:my cat")) == 0


def test_a_family_that_splits_its_text_itself_says_so():
    tokenizer = tokenizer_of("comfy.text_encoders.longcat_image:LongCatImageTokenizer")
    leaves = tokenizer_leaves(tokenizer)
    entry = named("cat", {key: torch.ones(3, leaf.embedding_size) for key, leaf in leaves.items()})
    with pytest.raises(ValueError, match="takes no embeddings"):
        check_takes_vectors(overlay_tokenizer(tokenizer, {"cat": entry}))
