"""Each part has an optimizer of its own, with the settings that are promised."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training.toys import losses, toy_parts

from pack.training.adapters.adapted import ADAPTER_RATE
from pack.training.config import TrainConfig
from pack.training.optimizers.choices import (
    Algorithm,
    OptimizerConfig,
    drop_group,
    make_optimizer,
)
from pack.training.words.concepts import Concept
from pack.training.words.vectors import EMBEDDING_RATE

PRODIGY = OptimizerConfig(algorithm=Algorithm.PRODIGY, weight_decay=0.0)
CAPTIONS = ("TIK beside TOK",)


def concepts(pivot: float = 1.0) -> tuple[Concept, ...]:
    return tuple(Concept(placeholder=p, initial="dog", pivot=pivot) for p in ("TOK", "TIK"))


def test_embeddings_and_adapters_are_updated_by_instances_of_their_own(updates):
    losses(toy_parts(*concepts(), captions=CAPTIONS), TrainConfig(steps=3))
    assert [u.names for u in updates] == [("TOK", "TIK"), ("adapters",)] * 3
    rows, factors = updates[0].optimizer, updates[1].optimizer
    assert rows is not factors
    assert {id(u.optimizer) for u in updates} == {id(rows), id(factors)}


def test_prodigy_finds_a_step_size_for_each_part(updates):
    config = TrainConfig(steps=40, norm_pull=0.0, optimizer=PRODIGY, embedding_optimizer=PRODIGY)
    losses(toy_parts(Concept(placeholder="TOK", pivot=1.0)), config)
    rows = [u.d for u in updates if "TOK" in u.names]
    factors = [u.d for u in updates if "adapters" in u.names]
    assert rows[0] == factors[0] == 1e-6, "both start from Prodigy's own first estimate"
    assert rows[-1] > 2e-6 and factors[-1] > 10 * rows[-1]


def test_the_step_size_of_the_adapters_does_not_hear_of_the_embeddings(updates):
    """With embeddings that do not move the adapters see the same gradients as without them."""
    still = OptimizerConfig(learning_rate=1e-30, weight_decay=0.0)
    estimates = []
    for pivot in (0.0, 1.0):
        updates.clear()
        config = TrainConfig(steps=8, norm_pull=0.0, optimizer=PRODIGY, embedding_optimizer=still)
        losses(toy_parts(*concepts(pivot), captions=CAPTIONS), config)
        estimates.append([u.d for u in updates if "adapters" in u.names])
    assert estimates[0] == estimates[1] and len(estimates[0]) == 8


def test_the_parts_may_use_different_algorithms(updates):
    config = TrainConfig(steps=1, embedding_optimizer=PRODIGY)
    losses(toy_parts(*concepts(), captions=CAPTIONS), config)
    assert [type(u.optimizer).__name__ for u in updates] == ["Prodigy", "AdamW"]


@pytest.mark.parametrize(
    ("config", "default", "rate"),
    [
        (OptimizerConfig(), ADAPTER_RATE, 1e-4),
        (OptimizerConfig(), EMBEDDING_RATE, 1e-3),
        (OptimizerConfig(learning_rate=3e-4), ADAPTER_RATE, 3e-4),
        (PRODIGY, EMBEDDING_RATE, 1.0),
        (OptimizerConfig(algorithm=Algorithm.PRODIGY, learning_rate=0.5), ADAPTER_RATE, 0.5),
    ],
)
def test_a_learning_rate_of_0_takes_the_proven_one(config, default, rate):
    optimizer = make_optimizer(config, {"x": [nn.Parameter(torch.ones(2))]}, default)
    assert config.rate(default) == rate
    assert [(g["lr"], g["rate"]) for g in optimizer.param_groups] == [(rate, rate)]


def test_prodigy_has_the_settings_that_are_used_for_diffusion():
    config = OptimizerConfig(algorithm=Algorithm.PRODIGY, weight_decay=0.02, d_coef=2.0)
    (group,) = make_optimizer(config, {"x": [nn.Parameter(torch.ones(2))]}, 1.0).param_groups
    wanted = {
        "betas": (0.9, 0.99),
        "decouple": True,
        "use_bias_correction": True,
        "safeguard_warmup": True,
        "weight_decay": 0.02,
        "d_coef": 2.0,
    }
    assert {name: group[name] for name in wanted} == wanted


def test_adamw_takes_its_weight_decay():
    config = OptimizerConfig(weight_decay=0.03)
    (group,) = make_optimizer(config, {"x": [nn.Parameter(torch.ones(2))]}, 1.0).param_groups
    assert group["weight_decay"] == 0.03 and group["betas"] == (0.9, 0.999)


@pytest.mark.parametrize("gone", ["first", "middle", "last"])
def test_a_dropped_group_takes_its_state_and_gradients_with_it(gone: str):
    parts = {name: [nn.Parameter(torch.ones(2, 2))] for name in ("first", "middle", "last")}
    optimizer = make_optimizer(OptimizerConfig(), parts, 1e-3)
    for (parameter,) in parts.values():
        parameter.grad = torch.ones(2, 2)
    optimizer.step()
    drop_group(optimizer, gone)
    left = [name for name in parts if name != gone]
    assert [group["name"] for group in optimizer.param_groups] == left
    assert {id(p) for p in optimizer.state} == {id(parts[name][0]) for name in left}
    assert parts[gone][0].grad is None and all(parts[name][0].grad is not None for name in left)


def test_without_prodigyopt_the_error_says_what_to_run(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "prodigyopt", None)
    with pytest.raises(ImportError, match="pip install prodigyopt"):
        make_optimizer(PRODIGY, {"x": [nn.Parameter(torch.ones(2))]}, 1.0)
