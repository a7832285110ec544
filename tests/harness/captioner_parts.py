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
