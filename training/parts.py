"""What a run trains, and what it trains with."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn

from .data import EMPTY, TrainingData
from .objective import ObjectiveConfig, Prior
from .peers import Alone, Peers
from .ports import Caption, Denoiser, TextEncoder
from .trained import Trained, all_parameters, all_places
from .words.concepts import Concept, class_caption


@dataclass(kw_only=True, slots=True)
class Parts:
    """What a run trains, and what it trains with."""

    denoiser: Denoiser
    text: TextEncoder
    data: TrainingData
    concepts: tuple[Concept, ...]
    trained: Sequence[Trained]
    prior_data: TrainingData | None = None
    held_out: TrainingData | None = None
    """Pictures that are never trained on, for validation"""
    split: bool = False
    """Whether batches go through sample by sample from the start, blocks being recomputed"""
    peers: Peers = field(default_factory=Alone)
    notes: list[str] = field(default_factory=list[str])
    """What the run has to say about how it started, for the report"""

    def parameters(self) -> dict[str, nn.Parameter]:
        """Everything that a run may change, by a name that is the same in every process."""
        return all_parameters(self.trained)

    @property
    def data_notes(self) -> list[str]:
        """The lines of all data for the report, each once."""
        data = (self.data, self.prior_data, self.held_out)
        return list(dict.fromkeys(note for part in data if part for note in part.notes))

    @property
    def adapts_text(self) -> bool:
        """Whether the text encoders themselves change, and so every caption's conditioning."""
        return bool(all_places(self.trained).text_layers)


@contextmanager
def attached(parts: Parts) -> Generator[None, None, None]:
    """Borrow the models, with all that is trained in its place, and give them back as they were."""
    places = all_places(parts.trained)
    with (
        parts.text.attach(places.vectors, places.text_layers, places.outputs),
        parts.denoiser.attach(places.layers),
    ):
        yield


def loss_scale(data: TrainingData) -> float:
    """A power of two near the size of a latent, so that fp16 gradients of a mean do not vanish.

    Powers of two change no mantissa: in fp32 the update is the same with and without it.
    """
    return float(2 ** (data.latents[0].numel().bit_length() - 1))


def all_captions(parts: Parts, objective: ObjectiveConfig) -> list[Caption]:
    """Every caption that the run can ask for."""
    captions = [*parts.data.captions, EMPTY]
    for data in (parts.prior_data, parts.held_out):
        captions += data.captions if data is not None else []
    if parts.prior_data is not None:
        return captions
    if objective.prior is Prior.BASE:
        captions += [class_caption(caption, parts.concepts) for caption in captions]
    return captions
