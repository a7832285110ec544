"""What the tiny caption models share: sizes, a chat template, vocabularies and tokenizers."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 2}
VISION = {**SMALL, "image_size": 32, "patch_size": 16}
TURNS = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def symbols(first: tuple[str, ...] = ()) -> dict[str, int]:
    """A vocabulary of the 256 byte symbols behind some special tokens."""
    from tokenizers import pre_tokenizers

    words = [*first, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return {word: number for number, word in enumerate(words)}


def letters() -> Any:
    """A WordPiece tokenizer of single letters, as BLIP and GIT have a BERT one."""
    import transformers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    plain = list("abcdefghijklmnopqrstuvwxyz0123456789.,'")
    words = [*special, *plain, *(f"##{letter}" for letter in plain)]
    return transformers.BertTokenizer(vocab={word: n for n, word in enumerate(words)})


def bytes_with(image_tokens: dict[str, str], **special: str) -> Any:
    """A byte-level tokenizer with named image tokens."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=symbols(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, extra_special_tokens=image_tokens, **special
    )
    made.add_special_tokens({"additional_special_tokens": list(image_tokens.values())})
    return made


def ends_of(words: Any) -> dict[str, int]:
    return {
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }


def chat_words(**extra: str) -> Any:
    return bytes_with(
        {"image_token": "<image>", **extra}, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def decoder_of(words: Any, kind: str) -> dict[str, Any]:
    """A tiny language model of one of the kinds that read tiles, for these words."""
    text = {**SMALL, "model_type": kind, "vocab_size": len(words), "num_key_value_heads": 1}
    return text | {"max_position_embeddings": 1024, **ends_of(words)}


QWEN = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")


def qwen_words() -> Any:
    import transformers as tf

    words = tf.Qwen2Tokenizer(
        vocab=symbols(), merges=[], pad_token="<|endoftext|>", eos_token="<|im_end|>"
    )
    words.add_special_tokens({"additional_special_tokens": [*QWEN, "<|video_pad|>"]})
    return words


def qwen_config(words: Any, text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    number = words.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    both = {**SMALL, "vocab_size": len(words), "num_key_value_heads": 1}
    both |= {"max_position_embeddings": 2048, "eos_token_id": words.eos_token_id}
    both |= {"pad_token_id": words.pad_token_id, "bos_token_id": None}
    seen = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
    return {
        "image_token_id": number("<|image_pad|>"),
        "video_token_id": number("<|video_pad|>"),
        "vision_start_token_id": number("<|vision_start|>"),
        "vision_end_token_id": number("<|vision_end|>"),
        "text_config": {**both, "rope_parameters": {**rope, **text.pop("rope", {})}, **text},
        "vision_config": {**seen, "out_hidden_size": 32, **vision},
    }


def qwen_turns() -> str:
    """Qwen's marks around a picture in the chat template."""
    return TURNS.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
