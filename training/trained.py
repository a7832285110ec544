"""What a run trains: each kind owns its parameters, its way into the models and its result."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from .config import TrainConfig
from .data import MicroStep

if TYPE_CHECKING:
    from .adapters.base import Adapter

T = TypeVar("T")
Rows = Mapping[str, Mapping[str, Tensor]]
"""name -> encoder key -> (rows, width)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where trained things enter the models, in the words that the ports attach."""

    layers: Mapping[str, Adapter] = field(default_factory=dict[str, "Adapter"])
    """Adapters of the diffusion model's layers, by layer."""
    text_layers: Mapping[str, Adapter] = field(default_factory=dict[str, "Adapter"])
    """Adapters of the text encoders' layers, by layer."""
    vectors: Rows = field(default_factory=dict[str, Mapping[str, Tensor]])
    """Rows that the encoders read where a caption mentions the name."""
    outputs: Rows = field(default_factory=dict[str, Mapping[str, Tensor]])
    """Rows that replace what the encoders return there."""

    def __or__(self, other: Places) -> Places:
        return Places(
            layers=_united(self.layers, other.layers),
            text_layers=_united(self.text_layers, other.text_layers),
            vectors=_united(self.vectors, other.vectors),
            outputs=_united(self.outputs, other.outputs),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """What a bundle gets of a run, on the CPU."""

    lora: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """By `<model part>.<layer>.<suffix>`."""
    embeddings: Rows = field(default_factory=dict[str, Mapping[str, Tensor]])
    outputs: Rows = field(default_factory=dict[str, Mapping[str, Tensor]])
    peft: Rows = field(default_factory=dict[str, Mapping[str, Tensor]])
    """Layers of the diffusion model that PEFT reads in another form, by layer and suffix."""

    def __or__(self, other: Learned) -> Learned:
        return Learned(
            lora=_united(self.lora, other.lora),
            embeddings=_united(self.embeddings, other.embeddings),
            outputs=_united(self.outputs, other.outputs),
            peft=_united(self.peft, other.peft),
        )


class Trained:
    """One kind of thing that a run trains. What a kind does not need, it leaves as it is here."""

    optimizer_names: tuple[str, ...] = ()
    """Names that its optimizers may have in checkpoints and reports."""

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """All that may change, each once, by names that are the same in every process.

        The first word of a name says the kind, so that kinds share a checkpoint.
        """
        raise NotImplementedError

    def freezable(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """What can be frozen alone, by its concept's name; empty for what trains to the end."""
        return {}

    def optimizers(self, config: TrainConfig, live: Collection[str]) -> Mapping[str, Optimizer]:
        """New optimizers; of what can be frozen alone only `live` trains, each in its own group."""
        raise NotImplementedError

    def places(self) -> Places:
        """Where it enters the models while the run has borrowed them."""
        raise NotImplementedError

    def before_encoding(self, first: MicroStep | None) -> None:
        """The captions of a step are about to be encoded; None once their backward is done."""

    def begin(self, micro_step: MicroStep | None) -> None:
        """The samples that go through the network next; None when none is trained on."""

    def penalty(self) -> Tensor | None:
        """A term of its own in the loss, a scalar."""
        return None

    def updated(self, optimizer: Optimizer, moved: Collection[str], config: TrainConfig) -> None:
        """After an update of one of its optimizers; `moved` names the groups with a gradient."""

    def learned(self) -> Learned:
        """What the bundle gets, copied to the CPU."""
        raise NotImplementedError

    def summary(self) -> list[str]:
        """Lines of a run's report about what is trained."""
        return []


def _united(left: Mapping[str, T], right: Mapping[str, T]) -> dict[str, T]:
    """Both; ValueError for a name that is trained in two ways at once."""
    twice = sorted(left.keys() & right.keys())
    if twice:
        raise ValueError(f"{twice[0]} would be trained in two ways at once: choose one of them.")
    return {**left, **right}


def all_parameters(trained: Iterable[Trained]) -> dict[str, nn.Parameter]:
    """Everything that may change, by a name that is the same in every process."""
    return {name: p for thing in trained for name, p in thing.parameters().items()}


def all_places(trained: Iterable[Trained]) -> Places:
    """Everything that enters the models."""
    return reduce(Places.__or__, (thing.places() for thing in trained), Places())


def all_learned(trained: Iterable[Trained]) -> Learned:
    """Everything that the bundle gets."""
    return reduce(Learned.__or__, (thing.learned() for thing in trained), Learned())


def on_cpu(rows: Mapping[str, Mapping[str, nn.Parameter]]) -> Rows:
    """Copies in fp32."""
    return {
        name: {key: tensor.detach().float().to("cpu", copy=True) for key, tensor in of.items()}
        for name, of in rows.items()
    }
