"""The pack's own loop on the host's model, with adapters on the attention layers or on all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pack.nodes.host.denoiser.port import HostDenoiser
from pack.nodes.host.run.drive import gradients
from pack.nodes.host.text.port import HostTextEncoder
from pack.training.adapters import build_adapters
from pack.training.adapters.adapted import Adapters
from pack.training.adapters.lora import LoraConfig
from pack.training.adapters.targets import Targets
from pack.training.config import TrainConfig
from pack.training.data import TrainingData
from pack.training.dataset.batches import Batches
from pack.training.loop import train
from pack.training.parts import Parts
from pack.training.ports import Caption, Conditioning, Crop
from pack.training.words.concepts import Concept, parse_caption
from pack.training.words.vectors import Vectors, initial_vectors

from .meter import Meter
from .models import load_clip, load_model
from .setup import PICTURES, WORDS, Setup

STEPS = 100_000
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Precomputed:
    """A text encoder with precomputed conditioning, which is what the peers get as well."""

    def __init__(self, width: int, pooled: int):
        rng = torch.Generator().manual_seed(2)
        self._tensors = {"cond": torch.randn(1, 77, width, generator=rng)}
        if pooled:
            self._tensors["pooled_output"] = torch.randn(1, pooled, generator=rng)

    def norms(self) -> dict[str, float]:
        return {}

    def rows(self, phrase: str) -> dict[str, Tensor]:
        return {}

    def output_rows(self, phrase: str) -> dict[str, Tensor]:
        return {}

    def companions(self) -> list[Any]:
        return []

    @contextmanager
    def attach(
        self,
        vectors: Mapping[str, Any],
        adapters: Mapping[str, Any] = NOTHING,
        outputs: Mapping[str, Any] = NOTHING,
    ) -> Iterator[None]:
        yield

    def encode(self, captions: Sequence[Caption], *, adapted: bool = True) -> list[Conditioning]:
        return [Conditioning(self._tensors) for _ in captions]

    def release(self) -> None:
        pass


def concepts_of(setup: Setup) -> tuple[Concept, ...]:
    """The concepts; in the phase after the pivot they train for one step only."""
    pivot = 1 / STEPS if setup.phase == "after the pivot" else 1.0
    names = [f"thing{number}" for number in range(setup.concepts)]
    return tuple(Concept(placeholder=name, initial="dog", pivot=pivot) for name in names)


def data_of(setup: Setup, concepts: Sequence[Concept]) -> TrainingData:
    """One picture for each concept, and at least eight, each with its own caption."""
    count = max(PICTURES, len(concepts))
    side = 8 * setup.latent
    rng = torch.Generator().manual_seed(3)
    crop = Crop(
        width=side, height=side, left=0, top=0, original_width=side, original_height=side
    )  # fmt: skip
    texts = [
        WORDS.replace("thing", concepts[n % len(concepts)].placeholder) if concepts else WORDS
        for n in range(count)
    ]
    return TrainingData(
        latents=[
            torch.randn(4, setup.latent, setup.latent, generator=rng) for _ in range(count)
        ],
        captions=[parse_caption(text, concepts) for text in texts],
        crops=[crop] * count,
        batches=Batches([0] * count, [1] * count, setup.batch, 0),
    )  # fmt: skip


def text_of(setup: Setup) -> tuple[Any, list[torch.nn.Module]]:
    """The text encoder's port, and the modules behind it."""
    if not setup.text:
        xl = "sdxl" in setup.size
        return Precomputed(2048 if xl else 768, 1280 if xl else 0), []
    clip = load_clip(setup.size, getattr(torch, setup.text), setup.text_layers or None)
    encoders = [m for m in clip.cond_stage_model.modules() if hasattr(m, "process_tokens")]
    return HostTextEncoder(clip), [encoder.transformer for encoder in encoders]


def run(setup: Setup, meter: Meter) -> None:
    import comfy.model_management as management

    model = load_model(setup.size, getattr(torch, setup.dtype))
    text, encoders = text_of(setup)
    management.load_models_gpu([*text.companions(), model])
    meter.ready([model.model.diffusion_model, *encoders], encoders)
    concepts = concepts_of(setup)
    with gradients():
        denoiser = HostDenoiser(
            model, checkpointing=setup.checkpointing == "on", companions=text.companions
        )
        adapter = adapter_of(setup)
        parts = Parts(
            denoiser=denoiser,
            text=text,
            concepts=concepts,
            trained=[
                *([Vectors(initial_vectors(concepts, text, 0), text)] if concepts else []),
                Adapters(adapter, build_adapters(adapter, denoiser.layers(), 0), {}),
            ],
            data=data_of(setup, concepts),
        )
        config = TrainConfig(steps=STEPS, batch_size=setup.batch)
        with closing(train(parts, config)) as steps:
            for _ in steps:
                meter.done()


def adapter_of(setup: Setup) -> LoraConfig:
    """LoRA on the attention layers, or on all linear layers and convolutions."""
    targets = Targets.ATTENTION if setup.contender == "ours" else Targets.CONVOLUTIONS
    return LoraConfig(rank=setup.rank, alpha=setup.rank, targets=targets)
