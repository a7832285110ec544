"""Parameters in bf16: rounding by chance keeps the mean, and small updates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from training.toys import adapters_of, toy_parts, trained, vectors_of

from pack.training.config import TrainConfig
from pack.training.loop import train
from pack.training.optimizers.average import Average
from pack.training.optimizers.choices import Algorithm, OptimizerConfig, Precision, make_optimizer
from pack.training.optimizers.rounding import in_fp32, round_by_chance
from pack.training.randomness import generator
from pack.training.state import capture
from pack.training.words.concepts import Concept

BF16 = OptimizerConfig(precision=Precision.BF16, learning_rate=1e-3)


@pytest.mark.parametrize("value", [1.0 + 2**-10, -3.1415926, 1e-5, 6e4])
def test_rounding_keeps_the_mean_and_goes_to_a_neighbor(value: float):
    rounded = round_by_chance(torch.full((20000,), value), generator("r"))
    near = torch.tensor(value).bfloat16().float().item()
    steps = sorted(set(rounded.float().tolist()))
    assert near in steps and len(steps) == 2 and steps[0] < value < steps[1]
    error = abs(rounded.double().mean().item() - value)
    assert error < 4 * (steps[1] - steps[0]) / 2 / 20000**0.5


def test_what_bf16_can_hold_stays_as_it_is():
    values = torch.randn(1000).bfloat16()
    assert torch.equal(round_by_chance(values.float(), generator("r")), values)
    assert round_by_chance(torch.tensor([torch.inf, torch.nan]), generator("r")).isinf()[0]


def test_small_updates_are_not_lost():
    """A thousandth of a weight: to the nearest bf16 it would never move."""
    parameter = nn.Parameter(torch.ones(4000).bfloat16())
    draw = generator("r")
    for _ in range(30):
        parameter.grad = torch.ones(4000).bfloat16()
        with in_fp32([parameter], draw):
            parameter.data -= 1e-3
    assert parameter.dtype is torch.bfloat16
    assert parameter.float().mean().item() == pytest.approx(0.97, abs=1e-3)


def test_a_parameter_without_gradient_is_not_rounded_anew():
    parameter = nn.Parameter(torch.randn(100).bfloat16())
    before = parameter.detach().clone()
    with in_fp32([parameter], generator("r")):
        assert parameter.dtype is torch.float32
    assert torch.equal(parameter, before)


def test_a_run_keeps_its_factors_in_bf16_and_its_moments_in_fp32():
    parts = toy_parts(Concept(placeholder="TOK", initial="dog", pivot=1.0))
    report = list(train(parts, TrainConfig(steps=3, optimizer=BF16)))[-1]
    factors = [p for a in adapters_of(parts).values() for p in a.parameters()]
    assert {p.dtype for p in factors} == {torch.bfloat16}
    vectors = vectors_of(parts).values()
    assert {p.dtype for rows in vectors for p in rows.values()} == {torch.float32}
    state = report.run.optimizers["adapters"].state
    assert {state[p]["exp_avg"].dtype for p in factors} == {torch.float32}


def test_bf16_learns_what_fp32_learns():
    ends = {}
    for precision in Precision:
        parts = toy_parts(batch_size=4)
        optimizer = OptimizerConfig(learning_rate=2e-3, precision=precision)
        config = TrainConfig(steps=200, batch_size=4, optimizer=optimizer)
        losses = [report.loss.item() for report in train(parts, config)]
        ends[precision] = sum(losses[-50:]) / 50
        start = sum(losses[:20]) / 20
    assert ends[Precision.FP32] < 0.9 * start
    assert ends[Precision.BF16] < 1.1 * ends[Precision.FP32]


@pytest.mark.parametrize("algorithm", [Algorithm.ADAMW, Algorithm.PRODIGY])
def test_a_run_in_bf16_continues_bit_for_bit(algorithm: Algorithm):
    config = TrainConfig(
        steps=6, optimizer=OptimizerConfig(algorithm=algorithm, precision=Precision.BF16)
    )
    whole = toy_parts()
    states = [report.state() for report in train(whole, config)]
    rest = toy_parts()
    list(train(rest, config, states[2]))
    left, right = trained(whole), trained(rest)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert capture(0, whole.parameters(), {}).tensors


def test_the_average_of_parameters_in_bf16_follows_them_to_the_end():
    """A thousandth of the way a step would be lost to rounding long before."""
    parameter = nn.Parameter(torch.ones(8).bfloat16())
    average = Average({"up": parameter}, 0.99)
    for _ in range(2000):
        parameter.data.fill_(1.5)
        average.step()
    assert average.tensors()["up"].mean().item() == pytest.approx(1.5, rel=1e-3)


def test_the_norm_pull_reaches_vectors_in_bf16():
    """Within a fiftieth of the norm a step of it is less than bf16 can hold."""
    parts = toy_parts(Concept(placeholder="TOK", initial="dog", pivot=1.0), lora=None)
    for rows in vectors_of(parts)["TOK"].values():
        rows.data *= 0.98
    still = replace(BF16, learning_rate=1e-9, weight_decay=0.0)
    list(train(parts, TrainConfig(steps=300, embedding_optimizer=still, norm_pull=0.02)))
    wanted = parts.text.norms()
    for key, rows in vectors_of(parts)["TOK"].items():
        lengths = rows.float().norm(dim=-1)
        assert lengths.mean().item() == pytest.approx(wanted[key], rel=0.004)


def test_the_embeddings_may_be_in_bf16_too():
    made = make_optimizer(BF16, {"tok": [nn.Parameter(torch.ones(2, 3))]}, 1e-3)
    assert made.param_groups[0]["params"][0].dtype is torch.bfloat16
