"""Text encoders cut to a few layers, as the host's loader finds them in their files.

They are cut by the options that the loader has for that; a mark is a key that the loader looks for
and no cut one has.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .checkpoints import Tensors, clip_module, random_weights
from .tekken import readable, tekken


class Encoded(Protocol):
    """What is asked of a tiny model about its text encoders."""

    @property
    def encoders(self) -> tuple[str, ...]: ...

    @property
    def clip_type(self) -> str: ...

    @property
    def taps(self) -> tuple[int, ...]: ...

    def cut(self, encoder: str) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """A text encoder that is cut: by these entries of its config, recognised by these marks."""

    cut: Mapping[str, Any]
    marks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


CLIP = {"num_hidden_layers": 3, "intermediate_size": 64}
LLM = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
ENCODERS = {
    "clip_l": Encoder(cut=CLIP),
    "clip_h": Encoder(
        cut=CLIP,
        marks={"text_model.encoder.layers.22.mlp.fc1.weight": (1, 1)},
    ),
    "clip_g": Encoder(
        cut=CLIP,
        marks={"text_model.encoder.layers.30.mlp.fc1.weight": (1, 1)},
    ),
    "t5xxl": Encoder(
        cut={"num_layers": 2, "num_heads": 2, "d_ff": 64},
        marks={"encoder.block.23.layer.1.DenseReluDense.wi_1.weight": (10240, 1)},
    ),
    "qwen3_4b": Encoder(cut={**LLM, "num_hidden_layers": 3}),
    # The width of the release's keys says which Qwen it is; the rest of it is free.
    "qwen25_7b": Encoder(
        cut={
            **LLM,
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
        }
    ),
    "gemma2_2b": Encoder(cut={**LLM, "num_hidden_layers": 3, "vocab_size": 512}),
    "mistral3_24b": Encoder(cut={**LLM, "num_hidden_layers": 3, "vocab_size": 512}),
}
WORDS = "a the dog cat photo of in garden red green with and many things on grass blue is it to at"


def load_clip(tiny: Encoded, draw: torch.Generator) -> Any:
    """The CLIP, found by the host in its encoders' weights, which are cut."""
    import comfy.sd

    options = {f"{name}_model_config": tiny.cut(name) for name in tiny.encoders}
    # The host's look for a longer CLIP puts this in the place of both CLIPs' entries.
    options["model_config"] = dict(ENCODERS["clip_l"].cut)
    with readable():
        made = comfy.sd.load_text_encoder_state_dicts(
            [encoder_weights(name, tiny.cut(name), draw) for name in tiny.encoders],
            clip_type=comfy.sd.CLIPType[tiny.clip_type],
            model_options=options,
        )
    for name in tiny.encoders:
        encoder = getattr(made.cond_stage_model, name)
        if tiny.taps:
            encoder.layer = list(tiny.taps)
            encoder.options_default = (encoder.layer, *encoder.options_default[1:])
        tokenizer = vars(made.tokenizer).get(name)
        if tokenizer is not None:
            tokenizer.embedding_size = tiny.cut(name).get("hidden_size", tokenizer.embedding_size)
    return made


def encoder_weights(name: str, cut: Mapping[str, Any], draw: torch.Generator) -> Tensors:
    """A cut text encoder in fp16, in the keys of its published files."""
    made = random_weights(encoder_module(name, cut), draw)
    for key, weight in made.items():
        if key.endswith("SelfAttention.q.weight"):
            # T5 does not scale its attention, but starts from smaller queries instead.
            weight *= 64**-0.5
        elif name.startswith("gemma") and weight.dim() == 1:
            # Gemma adds one to the scales of its norms.
            weight.zero_()
    made |= {key: torch.zeros(shape) for key, shape in ENCODERS[name].marks.items()}
    if name == "gemma2_2b":
        made["spiece_model"] = sentencepiece_model()
    elif name == "mistral3_24b":
        made["tekken_model"] = tekken()
    return made


def encoder_module(name: str, cut: Mapping[str, Any]) -> nn.Module:
    """A cut text encoder without weights."""
    import comfy.ops
    import comfy.text_encoders.llama as llama
    import comfy.text_encoders.t5

    cut, rest = dict(cut), (torch.float32, "meta", comfy.ops.manual_cast)
    if name.startswith("clip"):
        return clip_module(name, **cut)
    if name == "t5xxl":
        return comfy.text_encoders.t5.T5({**t5_config(), **cut}, *rest)
    kinds = {
        "qwen3_4b": llama.Qwen3_4B,
        "qwen25_7b": llama.Qwen25_7BVLI,
        "gemma2_2b": llama.Gemma2_2B,
        "mistral3_24b": llama.Mistral3Small24B,
    }
    return nn.ModuleDict({"model": kinds[name](cut, *rest).model})


def t5_config() -> dict[str, Any]:
    import json
    from pathlib import Path

    import comfy.text_encoders.t5

    folder = Path(comfy.text_encoders.t5.__file__).parent
    return json.loads((folder / "t5_config_xxl.json").read_text(encoding="utf-8"))


def sentencepiece_model() -> Tensor:
    """A tokenizer of a few words, for the encoders whose files carry their own."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS, "abcdefghijklmnopqrstuvwxyz,.:"] * 20),
        model_writer=written,
        vocab_size=64,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    return torch.frombuffer(bytearray(written.getvalue()), dtype=torch.uint8)
