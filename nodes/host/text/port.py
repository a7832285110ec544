"""The text-encoder port: captions with trainable vectors through the host's own encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from torch import Tensor, nn

from ....bundles.inspection import Vocabulary
from ....training.adapters.base import Adapter
from ....training.ports import Caption, Conditioning, Layer, Mention, TextEncoder
from ..denoiser.injection import TrainingInjection, give_back
from ..denoiser.layers import adaptable_layers
from ..denoiser.recompute import IN_PLACE_BLOCKS
from .batch import BatchEncoder
from .output_embeddings import TrainedRows, output_rows, put_outputs, readable
from .tokenizer import PLAIN, NamedVectors, leaves, named, takes_vectors, with_names

NO_ADAPTERS: Mapping[str, Adapter] = MappingProxyType({})
NO_ROWS: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({})
SLICE = 8192
"""Rows of a token table at once, in fp32"""


class HostTextEncoder:
    """The host's CLIP as the engine's TextEncoder."""

    def __init__(self, clip: CLIP):
        self._base = clip
        self._clip = clip.clone()
        self._batch = BatchEncoder(self._clip)
        self._entries: dict[str, NamedVectors] = {}
        self._outputs: TrainedRows = {}
        self._injection: TrainingInjection | None = None
        self._released = self._loaded = False
        self._lengths: dict[str, Tensor] = {}

    def companions(self) -> list[ModelPatcher]:
        """What has to stay loaded beside the denoiser: the encoders, until they are released."""
        return [] if self._released else [self._clip.patcher]

    def layers(self) -> list[Layer]:
        """Every Linear and convolution of the encoders, by its dotted name."""
        return adaptable_layers(self._clip.cond_stage_model, self._have_weights)

    def _have_weights(self) -> None:
        """See that the weights are those of this CLIP; while it is borrowed they are."""
        if not self._loaded and self._injection is None:
            management.load_models_gpu([self._clip.patcher])
            self._loaded = True

    def norms(self) -> dict[str, float]:
        """Median row norm of each encoder's token table, measured in fp32."""
        return {key: _median_norm(table) for key, table in self._tables().items()}

    def rows(self, phrase: str) -> dict[str, Tensor]:
        """The token table's rows of a phrase, (tokens, width) in fp32 on the CPU."""
        found: dict[str, Tensor] = {}
        for key, table in self._tables().items():
            ids = _word_ids(leaves(self._base)[key], phrase)
            picked = table[torch.tensor(ids, dtype=torch.long, device=table.device)]
            found[key] = picked.detach().to("cpu", torch.float32, copy=True)
        return found

    def output_rows(self, phrase: str) -> dict[str, Tensor]:
        """What the encoders return for a phrase's words, (tokens, width) in fp32 on the CPU."""
        with torch.no_grad():
            return output_rows(self._base, phrase)

    def nearest(self, key: str, rows: Tensor, count: int) -> Tensor:
        """Ids of the words whose rows point most nearly the same way, (rows, count).

        In slices, since a large table in fp32 would not fit beside a training step.
        """
        table = self._tables()[key]
        if key not in self._lengths:
            # The table is frozen, so once is enough.
            self._lengths[key] = torch.cat([p.float().norm(dim=-1) for p in table.split(SLICE)])
        lengths = self._lengths[key].to(table.device).clamp(min=1e-12)
        wanted = rows.detach().to(table.device, torch.float32)
        likeness = torch.cat([wanted @ part.float().T for part in table.split(SLICE)], dim=-1)
        return (likeness / lengths).topk(count, dim=-1).indices

    def word(self, key: str, number: int) -> str:
        """The word of a token id; the number where the tokenizer has no list of words."""
        return word_of(leaves(self._base)[key], number)

    def _tables(self) -> dict[str, Tensor]:
        """The encoders' token tables by encoder key, (vocabulary, width)."""
        model = self._base.cond_stage_model
        tables: dict[str, Tensor] = {}
        for key, tokenizer in leaves(self._base).items():
            tables[key] = _table(encoder_of(model, key, tokenizer.embedding_size))
        return tables

    @contextmanager
    def attach(
        self,
        vectors: Mapping[str, Mapping[str, Tensor]],
        adapters: Mapping[str, Adapter] = NO_ADAPTERS,
        outputs: Mapping[str, Mapping[str, Tensor]] = NO_ROWS,
    ) -> Iterator[None]:
        """Borrow: encoders record no weight, and every name with rows can be mentioned."""
        device = self._clip.patcher.load_device
        for adapter in adapters.values():
            adapter.to(device)
        for of_name in (*vectors.values(), *outputs.values()):
            for rows in of_name.values():
                rows.data = rows.data.to(device)
        entries = {name: named(name, of_name) for name, of_name in vectors.items()}
        entries |= {name: named(name, {}, outputs=of_name) for name, of_name in outputs.items()}
        self._entries, self._outputs = readable(entries)
        # Encoders that take no vectors can have adapters all the same.
        takes = bool(entries) or takes_vectors(self._base)
        self._clip = with_names(self._base, self._entries.values()) if takes else self._base.clone()
        self._plain = {PLAIN: True} if takes else {}
        self._batch = BatchEncoder(self._clip)
        self._injection = TrainingInjection(
            root=self._clip.cond_stage_model, adapters=adapters, blocks=IN_PLACE_BLOCKS
        )
        self._injection.install(self._clip.patcher)
        try:
            with torch.no_grad():
                # Shows the batch how the encoders answer, whatever caption comes first.
                self.encode([("",)])
            yield
        finally:
            give_back(self._clip.patcher)
            self._injection = None

    def encode(
        self, captions: Sequence[Caption], *, weights: bool = False, adapted: bool = True
    ) -> list[Conditioning]:
        """One conditioning a caption; parentheses are plain text unless `weights` is set."""
        options = {} if weights else self._plain
        tokens = [self._clip.tokenize(self._spell(caption), **options) for caption in captions]
        with self._adapted(adapted):
            encoded = self._batch.encode(tokens)
            for read, result in zip(tokens, encoded, strict=True) if self._outputs else ():
                result["cond"] = put_outputs(self._clip, read, result["cond"], self._outputs)
        return [
            Conditioning({name: value for name, value in made.items() if torch.is_tensor(value)})
            for made in encoded
        ]

    @contextmanager
    def _adapted(self, adapted: bool) -> Iterator[None]:
        if self._injection is None:
            yield
            return
        self._injection.adapted = adapted
        try:
            yield
        finally:
            self._injection.adapted = True

    def _spell(self, caption: Caption) -> str:
        """The caption as the host's tokenizer reads it, with the blanks that a user would type.

        Some encoders have tokens for two blanks, so a mention brings none beside one that is there.
        """
        spelled = ""
        for part in caption:
            if isinstance(part, Mention):
                blank = "" if not spelled or spelled[-1].isspace() else " "
                spelled += f"{blank}embedding:{self._entries[part.concept].identity} "
            else:
                spelled += part[1:] if spelled and part[:1].isspace() else part
        return spelled

    def release(self) -> None:
        """Eject the training parts now; the host may unload the encoder when it needs the room."""
        self._released = True
        if self._injection is not None:
            self._injection.uninstall(self._clip.patcher)


def word_of(tokenizer: object, number: int) -> str:
    """The word of a token id; the number where the tokenizer has no list of words."""
    words: dict[int, str] = getattr(tokenizer, "inv_vocab", {})
    return str(words.get(number, number)).removesuffix("</w>")


def encoder_of(model: nn.Module, key: str, width: int) -> nn.Module:
    """The encoder inside a host text model that a tokenizer's embedding key stands for."""
    encoders = {name: m for name, m in model.named_modules() if hasattr(m, "process_tokens")}
    for name, encoder in encoders.items():
        if name.split(".")[-1] == key:
            return encoder
    fitting = [e for e in encoders.values() if _table(e).shape[1] == width]
    if len(fitting) == 1:
        return fitting[0]
    raise ValueError(f"No text encoder of this CLIP belongs to {key}: it takes no embeddings.")


def _table(encoder: Any) -> Tensor:
    """The token table of an encoder, (vocabulary, width)."""
    return encoder.transformer.get_input_embeddings().weight


def _median_norm(table: Tensor) -> float:
    """In slices, so that a large table is never copied whole to fp32."""
    return torch.cat([part.float().norm(dim=-1) for part in table.split(SLICE)]).median().item()


def _word_ids(tokenizer: Any, phrase: str) -> list[int]:
    """Token ids of a phrase without start, end and padding."""
    chunks = tokenizer.tokenize_with_weights(phrase, return_word_ids=True, disable_weights=True)
    return [int(token) for chunk in chunks for token, _, word in chunk if word != 0]


def vocabularies(clip: CLIP) -> dict[str, Vocabulary]:
    """Token table and spelling by encoder key; the tables stay where they are."""
    found: dict[str, Vocabulary] = {}
    for key, tokenizer in leaves(clip).items():
        encoder = encoder_of(clip.cond_stage_model, key, tokenizer.embedding_size)
        found[key] = Vocabulary(table=_table(encoder).detach(), word=partial(word_of, tokenizer))
    return found


_: type[TextEncoder] = HostTextEncoder
