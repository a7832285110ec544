"""Every optimizer on offer trains, and hands over what it has learned."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from training.toys import toy_parts, trained

from pack.training.config import TrainConfig
from pack.training.loop import train
from pack.training.optimizers.choices import (
    PACKAGES,
    Algorithm,
    OptimizerConfig,
    averaged,
    check_installed,
    make_optimizer,
    shift_origin,
    take_average,
)
from pack.training.words.concepts import Concept

FREE = OptimizerConfig(algorithm=Algorithm.SCHEDULE_FREE, learning_rate=0.01, weight_decay=0.0)


def config_of(algorithm: Algorithm, steps: int) -> TrainConfig:
    rate = 0.0 if algorithm is Algorithm.PRODIGY else 5e-3
    optimizer = OptimizerConfig(algorithm=algorithm, learning_rate=rate)
    return TrainConfig(
        steps=steps, batch_size=4, optimizer=optimizer, embedding_optimizer=optimizer
    )


@pytest.mark.parametrize("algorithm", Algorithm)
def test_every_algorithm_trains(algorithm: Algorithm):
    parts = toy_parts(Concept(placeholder="TOK", initial="dog"), batch_size=4)
    losses = [report.loss.item() for report in train(parts, config_of(algorithm, 150))]
    assert sum(losses[-40:]) < 0.85 * sum(losses[:40])


@pytest.mark.parametrize("algorithm", list(PACKAGES))
def test_a_missing_package_is_named_with_the_line_to_run(algorithm, monkeypatch):
    package, path = PACKAGES[algorithm]
    module = f"{package}.{path}".rpartition(".")[0]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"{algorithm.value} is not installed.*install {package}"):
        check_installed(OptimizerConfig(algorithm=algorithm))


def test_the_8_bit_optimizer_keeps_moments_of_8_bits():
    """Of tensors that are large enough to gain by it."""
    config = OptimizerConfig(algorithm=Algorithm.ADAMW_8BIT, learning_rate=0.01)
    parameter = nn.Parameter(torch.ones(8192))
    optimizer = make_optimizer(config, {"x": [parameter]}, 1e-3)
    for _ in range(20):
        parameter.grad = parameter.detach().clone()
        optimizer.step()
    assert optimizer.state[parameter]["state1"].dtype is torch.uint8
    assert parameter.abs().mean() < 0.9


def test_prodigys_estimate_grows_no_faster_than_it_is_told():
    for rate, bound in ((0.0, float("inf")), (1.02, 1.02)):
        config = OptimizerConfig(algorithm=Algorithm.PRODIGY, growth_rate=rate, weight_decay=0)
        parameter = nn.Parameter(torch.zeros(4))
        optimizer = make_optimizer(config, {"x": [parameter]}, 1.0)
        estimates = []
        for _ in range(30):
            parameter.grad = parameter.detach() - 1
            optimizer.step()
            estimates.append(optimizer.param_groups[0]["d"])
        # The first estimate replaces Prodigy's starting point, however far it is from there.
        first = next(place for place, d in enumerate(estimates) if d != estimates[0])
        later = estimates[first:]
        growth = max(b / a for a, b in zip(later, later[1:], strict=False))
        assert growth <= bound + 1e-9 and (growth > 1.03) == (rate == 0)


def free_run(steps: int) -> tuple[nn.Parameter, torch.optim.Optimizer, list[torch.Tensor]]:
    """Schedule-Free on a noisy quadratic, with every point that it took a gradient at."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = make_optimizer(FREE, {"x": [parameter]}, 1e-3)
    for step in range(steps):
        draw = torch.Generator().manual_seed(step)
        parameter.grad = parameter.detach() + torch.randn(3, generator=draw)
        optimizer.step()
    return parameter, optimizer


def test_settling_leaves_the_average_that_the_package_gives():
    ours, optimizer = free_run(20)
    theirs, other = free_run(20)
    take_average(optimizer)
    other.eval()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert not torch.equal(ours, free_run(20)[0])


def test_training_goes_on_bit_for_bit_after_a_look_at_what_was_learned():
    parameter, optimizer = free_run(5)
    before = parameter.detach().clone()
    with averaged([optimizer]):
        assert not torch.equal(parameter, before)
    assert torch.equal(parameter, before) and optimizer.param_groups[0]["train_mode"]


def test_a_move_by_other_hands_moves_the_average_as_far():
    """The norm pull: y and z go along, so x = y + (1 - 1 / beta)(z - y) does."""
    parameter, optimizer = free_run(5)
    with averaged([optimizer]):
        before = parameter.detach().clone()
    shift = torch.tensor([1.0, -2.0, 0.5])
    parameter.data += shift
    shift_origin(optimizer, {parameter: shift})
    with averaged([optimizer]):
        torch.testing.assert_close(parameter.detach(), before + shift)


def test_a_run_ends_with_the_average_and_a_pivot_freezes_it():
    concept = Concept(placeholder="TOK", initial="dog", pivot=0.5)
    parts = toy_parts(concept)
    config = TrainConfig(steps=6, norm_pull=0.0, optimizer=FREE, embedding_optimizer=FREE)
    seen = []
    for report in train(parts, config):
        if "embeddings" in report.run.optimizers:
            with averaged([report.run.optimizers["embeddings"]]):
                seen.append(trained(parts)["TOK.clip_l"])
        last = report
    assert len(seen) == 2 and not torch.equal(seen[-1], trained(parts)["TOK.clip_l"])
    (group,) = last.run.optimizers["adapters"].param_groups
    assert not group["train_mode"]
