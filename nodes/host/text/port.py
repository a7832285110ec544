"""ComfyUI's CLIP as the engine's TextEncoder: captions with trainable vectors."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
from .output_embeddings import TrainedRows, as_zero_rows, encode_zero_rows, output_rows, put_outputs
from .tokenizer import (
    PLAIN,
    NamedVectors,
    encoder_tokenizers,
    mentioned_names,
    named,
    overlaid_names,
    overlay_tokenizer,
    takes_vectors,
    with_names,
)

NO_ADAPTERS: Mapping[str, Adapter] = MappingProxyType({})
NO_ROWS: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({})
NO_WORDS: Mapping[str, str] = MappingProxyType({})
SLICE = 8192
"""How many rows of a token table are converted to fp32 at once."""


class HostTextEncoder:
    def __init__(self, clip: CLIP):
        self._base = clip
        self._clip = clip.clone()
        self._batch = BatchEncoder(self._clip)
        self._learned: dict[str, NamedVectors] = {}
        self._entries: dict[str, NamedVectors] = {}
        self._outputs: TrainedRows = {}
        self._injection: TrainingInjection | None = None
        self._released = self._loaded = False
        self._lengths: dict[str, Tensor] = {}

    def companions(self) -> list[ModelPatcher]:
        """What must stay loaded with the denoiser: the encoders, until they are released."""
        return [] if self._released else [self._clip.patcher]

    def layers(self) -> list[Layer]:
        """Every Linear and convolution of the encoders, with its dotted name."""
        return adaptable_layers(self._clip.cond_stage_model, self._have_weights)

    def _have_weights(self) -> None:
        """Load this CLIP's weights, which another clone may have patched; `attach` does so too."""
        if not self._loaded and self._injection is None:
            management.load_models_gpu([self._clip.patcher])
            self._loaded = True

    def norms(self) -> dict[str, float]:
        """Median row norm of each encoder's token table, measured in fp32."""
        return {key: _median_norm(table) for key, table in self._tables().items()}

    def rows(self, phrase: str) -> dict[str, Tensor]:
        """The token table's rows of a phrase, (tokens, width) in fp32 on the CPU.

        `embedding:name` in it stands for the vectors of a file, or of a name of this CLIP.
        """
        rows: dict[str, Tensor] = {}
        for key, table in self._tables().items():
            own = [
                table[token] if isinstance(token, int) else token
                for token in _words(encoder_tokenizers(self._base)[key], phrase)
            ]
            on_cpu = [row.detach().to("cpu", torch.float32, copy=True) for row in own]
            rows[key] = torch.stack(on_cpu) if own else torch.empty(0, table.shape[1])
        return rows

    def output_rows(self, phrase: str) -> dict[str, Tensor]:
        """The encoders' output for a phrase's words, (tokens, width) in fp32 on the CPU."""
        with torch.no_grad():
            return output_rows(self._base, phrase)

    def nearest(self, key: str, rows: Tensor, count: int) -> Tensor:
        """Ids of the tokens whose rows have the nearest direction, (rows, count)."""
        table = self._tables()[key]
        if key not in self._lengths:
            # Once, since the table is frozen; in slices, since a large one in fp32 would not fit.
            self._lengths[key] = torch.cat([p.float().norm(dim=-1) for p in table.split(SLICE)])
        lengths = self._lengths[key].to(table.device).clamp(min=1e-12)
        vectors = rows.detach().to(table.device, torch.float32)
        likeness = torch.cat([vectors @ part.float().T for part in table.split(SLICE)], dim=-1)
        return (likeness / lengths).topk(count, dim=-1).indices

    def word(self, key: str, number: int) -> str:
        """The word of a token id, or the id if the tokenizer has no list of words."""
        return word_of(encoder_tokenizers(self._base)[key], number)

    def _tables(self) -> dict[str, Tensor]:
        """The encoders' token tables by encoder key, (vocabulary, width)."""
        model = self._base.cond_stage_model
        tables: dict[str, Tensor] = {}
        for key, tokenizer in encoder_tokenizers(self._base).items():
            tables[key] = _table(encoder_module(model, key, tokenizer.embedding_size))
        return tables

    @contextmanager
    def attach(
        self,
        vectors: Mapping[str, Mapping[str, Tensor]],
        adapters: Mapping[str, Adapter] = NO_ADAPTERS,
        outputs: Mapping[str, Mapping[str, Tensor]] = NO_ROWS,
    ) -> Iterator[None]:
        """Borrow the encoders: they record no weight, and every name with rows can be mentioned."""
        device = self._clip.patcher.load_device
        for adapter in adapters.values():
            adapter.to(device)
        for of_name in (*vectors.values(), *outputs.values()):
            for rows in of_name.values():
                rows.data = rows.data.to(device)
        entries = {name: named(name, of_name) for name, of_name in vectors.items()}
        entries |= {name: named(name, {}, outputs=of_name) for name, of_name in outputs.items()}
        self._learned = entries
        self._entries, self._outputs = as_zero_rows(entries)
        # Encoders that take no vectors can have adapters nevertheless.
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
                # Shows the batch the shapes of the encoders' outputs.
                self.encode([("",)])
            yield
        finally:
            give_back(self._clip.patcher)
            self._injection = None

    def encode(
        self, captions: Sequence[Caption], *, weights: bool = False, adapted: bool = True
    ) -> list[Conditioning]:
        """One conditioning per caption; parentheses are plain text unless `weights` is set."""
        options = {} if weights else self._plain
        tokens = [self._clip.tokenize(self._spell(caption), **options) for caption in captions]
        with self._adapted(adapted):
            encoded = self._batch.encode(tokens)
            for read, result in zip(tokens, encoded, strict=True) if self._outputs else ():
                result["cond"] = put_outputs(self._clip, read, result["cond"], self._outputs)
        return [
            Conditioning({name: value for name, value in result.items() if torch.is_tensor(value)})
            for result in encoded
        ]

    def encode_prompt(
        self, prompt: str, triggers: Mapping[str, str], replaced: Mapping[str, str] = NO_WORDS
    ) -> list[Any]:
        """The conditioning that the graph's nodes would give for a prompt if the run ended now.

        `triggers` are words that stand for names without `embedding:`; names in `replaced` are
        read as the words given there.
        """
        reader, trained = self._reader(triggers, replaced)
        return encode_zero_rows(reader, trained, prompt)[0]

    def names_in(self, prompt: str, triggers: Mapping[str, str]) -> list[str]:
        """The names of this run that a prompt mentions, each once, in the order of the alphabet."""
        reader, _ = self._reader(triggers, NO_WORDS)
        return sorted(mentioned_names(reader, prompt) & self._learned.keys())

    def _reader(
        self, triggers: Mapping[str, str], replaced: Mapping[str, str]
    ) -> tuple[CLIP, TrainedRows]:
        """This CLIP with other names; it shares the patcher, which holds what is being trained."""
        known = overlaid_names(self._base) | self._learned
        for word, name in triggers.items():
            known[name] = replace(known[name], bare=(*known[name].bare, word))
        for name, words in replaced.items():
            known[name] = replace(known[name], vectors={}, outputs={}, fallback=words)
        if not known:
            return self._clip, {}
        names, trained = as_zero_rows(known)
        reader = copy.copy(self._clip)
        reader.tokenizer = overlay_tokenizer(self._base.tokenizer, names)
        return reader, trained

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
        """The caption as the host's tokenizer reads it, with the blanks that a user would type."""
        # Some encoders have a token for two blanks, so a mention adds none where there is one.
        spelled = ""
        for part in caption:
            if isinstance(part, Mention):
                blank = "" if not spelled or spelled[-1].isspace() else " "
                spelled += f"{blank}embedding:{self._entries[part.concept].identity} "
            else:
                spelled += part[1:] if spelled and part[:1].isspace() else part
        return spelled

    def release(self) -> None:
        """Eject the training parts, so that the host may unload the encoders."""
        self._released = True
        if self._injection is not None:
            self._injection.uninstall(self._clip.patcher)


def word_of(tokenizer: object, number: int) -> str:
    """The word of a token id, or the id if the tokenizer has no list of words."""
    words: dict[int, str] = getattr(tokenizer, "inv_vocab", {})
    return str(words.get(number, number)).removesuffix("</w>")


def encoder_module(model: nn.Module, key: str, width: int) -> nn.Module:
    """The encoder inside a host text model that belongs to a tokenizer's embedding key."""
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
    # In slices, so that a large table is never converted to fp32 as a whole.
    return torch.cat([part.float().norm(dim=-1) for part in table.split(SLICE)]).median().item()


def _words(tokenizer: Any, phrase: str) -> list[int | Tensor]:
    """Token ids and vectors of a phrase without start, end and padding."""
    chunks = tokenizer.tokenize_with_weights(phrase, return_word_ids=True, disable_weights=True)
    found = [token for chunk in chunks for token, _, word in chunk if word != 0]
    found = [token.get("data") if isinstance(token, dict) else token for token in found]
    return [token if torch.is_tensor(token) else int(token) for token in found]


def vocabularies(clip: CLIP) -> dict[str, Vocabulary]:
    """The words of a CLIP's encoders by encoder key; the tables are not copied."""
    by_key: dict[str, Vocabulary] = {}
    for key, tokenizer in encoder_tokenizers(clip).items():
        encoder = encoder_module(clip.cond_stage_model, key, tokenizer.embedding_size)
        by_key[key] = Vocabulary(table=_table(encoder).detach(), word=partial(word_of, tokenizer))
    return by_key


_: type[TextEncoder] = HostTextEncoder
