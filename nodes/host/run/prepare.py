"""The parts of a run made from a request, and the bundle made from trained parts."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from ....bundles.bundle import Bundle, Entry
from ....bundles.layers.generic import KOHYA_FAMILIES
from ....bundles.layers.peft_keys import to_peft
from ....training.adapters import (
    MODEL,
    TEXT,
    Adapter,
    AdapterConfig,
    build_chosen,
    choose_layers,
    export_adapters,
)
from ....training.adapters.dora import Axis, Dora, peft_tensors
from ....training.adapters.trilora import TriLoraConfig
from ....training.objective import Prior
from ....training.run import Parts
from ....training.words.concepts import with_negatives
from ....training.words.vectors import initial_vectors
from ..codec import HostLatentCodec
from ..denoiser.port import HostDenoiser
from ..denoiser.singular_values import kept_spectra
from ..text.port import HostTextEncoder
from .materials import make_data
from .request import Request


def make_parts(
    request: Request, denoiser: HostDenoiser, text: HostTextEncoder, codec: HostLatentCodec
) -> Parts:
    """Everything the loop needs; settings that do not fit the model fail before any encoding."""
    config, prior = request.config, request.class_dataset
    seed, batch = config.seed, config.batch_size
    adapters = make_adapters(request.adapter, denoiser, text, seed)
    vectors = initial_vectors(with_negatives(request.concepts), text, seed)
    held = request.validation.dataset if request.validation else None
    if config.objective.prior is Prior.NONE:
        prior = None
    beside = config.objective.prior_batch or batch
    return Parts(
        denoiser=denoiser,
        text=text,
        concepts=request.concepts,
        vectors=vectors,
        adapters=adapters[MODEL],
        text_adapters=adapters[TEXT],
        text_rate=request.adapter.text_rate if request.adapter else 1.0,
        data=make_data(request, request.dataset, codec, seed, batch),
        prior_data=make_data(request, prior, codec, seed + 1, beside) if prior else None,
        held_out=make_data(request, held, codec, seed, batch) if held else None,
    )


def make_adapters(
    config: AdapterConfig | None, denoiser: HostDenoiser, text: HostTextEncoder, seed: int
) -> dict[str, dict[str, Adapter]]:
    """The adapters of the diffusion model and of the text encoders by their layers."""
    if config is None:
        return {MODEL: {}, TEXT: {}}
    text_layers = text.layers() if config.text_encoder else []
    with kept_spectra() if isinstance(config, TriLoraConfig) else nullcontext() as kept:
        chosen = choose_layers(
            config,
            [replace(layer, kept=kept) for layer in denoiser.layers()],
            [replace(layer, kept=kept) for layer in text_layers],
        )
        return {
            part: build_chosen(config, chosen.get(part, []), seed, part) for part in (MODEL, TEXT)
        }


def make_peft(parts: Parts, family: str) -> dict[str, Tensor]:
    """The DoRA layers of a UNet that train lengths of rows, for diffusers; empty for all else."""
    rows = {
        name: peft_tensors(adapter)
        for name, adapter in parts.adapters.items()
        if isinstance(adapter, Dora) and adapter.axis is Axis.OUTPUT
    }
    return to_peft(rows, family) if rows and family in KOHYA_FAMILIES else {}


def make_bundle(request: Request, parts: Parts, family: str, base: str = "") -> Bundle:
    """What was trained, with its recipe and the digest of the model that it was trained on."""
    lora: dict[str, Tensor] = {}
    if request.adapter:
        lora |= export_adapters(request.adapter, parts.adapters, MODEL)
        lora |= export_adapters(request.adapter, parts.text_adapters, TEXT)
    embeddings = {
        name: {
            key: rows.detach().to("cpu", torch.float32, copy=True) for key, rows in vectors.items()
        }
        for name, vectors in parts.vectors.items()
    }
    entries = [
        Entry(name=c.final_name, initial=c.initial, placeholder=c.placeholder)
        for c in with_negatives(request.concepts)
    ]
    return Bundle(
        family=family,
        lora=lora,
        embeddings=embeddings,
        entries=tuple(entries),
        recipe=request.recipe() | ({"base_model": base} if base else {}),
    )
