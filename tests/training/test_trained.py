"""A run is a list of trained things: a new kind changes nothing in the loop, none counts twice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pack.training.adapters.adapted import Adapters
from pack.training.adapters.base import Adapter
from pack.training.adapters.lora import LoraConfig
from pack.training.config import TrainConfig
from pack.training.data import MicroStep
from pack.training.loop import train
from pack.training.optimizers.choices import make_optimizer
from pack.training.trained import Learned, Places, Trained, all_places
from pack.training.words.concepts import Concept
from training.toys import FEED, QUERY, losses, toy_parts

TOK = Concept(placeholder="TOK", initial="dog", pivot=1.0)


class Shift(Adapter):
    """Adds a number to each of the 4 outputs of a layer, and keeps what it was told."""

    suffixes = ("shift",)

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(4))
        self.batches: list[MicroStep | None] = []

    def begin(self, batch: MicroStep | None) -> None:
        self.batches.append(batch)

    def forward(self, x: Tensor) -> Tensor:
        return self.shift.expand(*x.shape[:-1], 4)

    def tensors(self) -> dict[str, Tensor]:
        return {"shift": self.shift}


class Gain(Trained):
    """A kind that the engine has never heard of: one number that scales a layer's output."""

    optimizer_names = ("gain",)

    def __init__(self) -> None:
        self.around = GainLayer()

    def parameters(self) -> dict[str, nn.Parameter]:
        return {"gain.value": self.around.value}

    def optimizers(self, config, live):
        return {"gain": make_optimizer(config.optimizer, {"gain": [self.around.value]}, 1e-2)}

    def places(self) -> Places:
        return Places(layers={FEED: self.around})

    def learned(self) -> Learned:
        return Learned(lora={"gain": self.around.value.detach().clone()})


class GainLayer(Adapter):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.ones(()))

    def around(self, base, x: Tensor) -> Tensor:
        return self.value * base(x)


def test_a_kind_that_the_engine_does_not_know_trains_and_resumes_bit_for_bit():
    config = TrainConfig(steps=6)

    def parts():
        made = toy_parts(TOK)
        made.trained.append(Gain())
        return made

    whole = parts()
    states = [report.state() for report in train(whole, config)]
    value = whole.parameters()["gain.value"]
    assert value.item() != 1.0 and "parameters.gain.value" in states[2].tensors
    rest = parts()
    for _ in train(rest, config, states[2]):
        pass
    assert torch.equal(rest.parameters()["gain.value"], value)


def test_a_module_of_several_layers_is_listed_updated_and_told_once():
    shared = Shift()
    parts = toy_parts(lora=None)
    parts.trained = [Adapters(LoraConfig(), {QUERY: shared, FEED: shared}, {})]
    assert list(parts.parameters()) == [f"adapters.{QUERY}.shift"]
    (report, *_) = list(train(parts, TrainConfig(steps=1)))
    (group,) = report.run.optimizers["adapters"].param_groups
    assert group["params"] == [shared.shift]
    # AdamW's first step is the learning rate, whatever the gradient.
    torch.testing.assert_close(
        shared.shift.detach().abs(), torch.full((4,), 1e-4), rtol=1e-3, atol=0
    )
    assert len(shared.batches) == 2 and shared.batches[-1] is None


def test_an_adapter_is_given_the_batch_and_not_only_its_number():
    shift = Shift()
    parts = toy_parts(lora=None)
    parts.trained = [Adapters(LoraConfig(), {FEED: shift}, {})]
    losses(parts, TrainConfig(steps=2, accumulation=2))
    told = [batch for batch in shift.batches if batch is not None]
    assert [batch.number for batch in told] == [0, 1, 2, 3]
    assert all(len(batch.batch.captions) == 2 for batch in told)


def test_two_things_cannot_train_in_one_place():
    with pytest.raises(ValueError, match=f"{FEED} would be trained in two ways"):
        all_places([Gain(), Gain()])
