"""The loop's steps equal steps written by hand, and it gives everything back however it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pack.training import loop
from pack.training.config import TrainConfig
from pack.training.data import MicroStep, draw_batch
from pack.training.loop import train, weighed
from pack.training.objective import ObjectiveConfig, Prior
from pack.training.optimizers.choices import Algorithm, OptimizerConfig
from pack.training.parts import Parts
from pack.training.state import restore_parameters
from pack.training.words.concepts import Concept
from training.reference import loss_by_hand
from training.toys import (
    ToyDenoiser,
    ToyText,
    adapters_of,
    losses,
    same,
    toy_data,
    toy_parts,
    trained,
    vectors_of,
)

TOK = Concept(placeholder="TOK", initial="small dog", pivot=1.0)
EVERYWHERE = ("a TOK", "TOK", "in TOK snow", "red TOK")
PRODIGY = OptimizerConfig(algorithm=Algorithm.PRODIGY, weight_decay=0.0)


def leaves(parts: Parts) -> tuple[dict[str, Tensor], list[Tensor], list[Tensor]]:
    """Copies of the trained numbers to differentiate by: all, the vectors, the factors."""
    values = {name: value.requires_grad_() for name, value in trained(parts).items()}
    vectors = [value for name, value in values.items() if "clip" in name]
    factors = [value for name, value in values.items() if "block" in name]
    return values, vectors, factors


def gradients(parts: Parts, micro_steps: range, part: int) -> list[Tensor]:
    """The mean gradient of some batches by hand, of the vectors (1) or the factors (2)."""
    made = leaves(parts)
    batches = [draw_batch(parts.data, 0, i, 0.0) for i in micro_steps]
    total = sum(loss_by_hand(parts, made[0], batch) for batch in batches)
    return [g / len(batches) for g in torch.autograd.grad(total, made[part])]


def test_steps_equal_steps_by_hand():
    """Forward, error, autograd.grad, clipping, torch's AdamW and the pull, without the engine."""
    objective = ObjectiveConfig(caption_dropout=0.3)
    config = TrainConfig(steps=4, accumulation=2, max_grad_norm=0.2, objective=objective)
    parts = toy_parts(TOK)
    values, vectors, factors = leaves(parts)
    rows = torch.optim.AdamW(vectors, lr=1e-3, weight_decay=0.0)
    lora = torch.optim.AdamW(factors, lr=1e-4, weight_decay=0.01)
    for report in train(parts, config):
        batches = [draw_batch(parts.data, 0, 2 * report.step + i, 0.3) for i in range(2)]
        loss = sum(loss_by_hand(parts, values, batch) for batch in batches) / 2
        step_by_hand(loss, vectors, rows)
        step_by_hand(loss, factors, lora)
        pull_by_hand(parts, values)
        assert report.loss.item() == pytest.approx(loss.item(), rel=1e-5)
        for name, value in trained(parts).items():
            torch.testing.assert_close(value, values[name].detach(), rtol=0, atol=2e-7)


def step_by_hand(loss: Tensor, values: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """One update under a gradient norm of at most 0.2."""
    grads = torch.autograd.grad(loss, values, retain_graph=True, allow_unused=True)
    norm = sum(g.square().sum() for g in grads if g is not None) ** 0.5
    for value, grad in zip(values, grads, strict=True):
        value.grad = None if grad is None else grad * min(1.0, 0.2 / (norm.item() + 1e-6))
    optimizer.step()


def pull_by_hand(parts: Parts, values: dict[str, Tensor]) -> None:
    for key, norm in parts.text.norms().items():
        for row in values[f"TOK.{key}"].detach():
            length = row.norm().item()
            row *= (length + 0.1 * (norm - length)) / length


@pytest.mark.parametrize(("accumulation", "batch_size"), [(1, 1), (3, 1), (2, 2), (3, 4)])
def test_accumulation_takes_the_mean_of_the_gradients(accumulation, batch_size, updates):
    parts = toy_parts(
        TOK, captions=("a TOK", "TOK", "in TOK snow", "red TOK"), batch_size=batch_size
    )
    wanted = [gradients(parts, range(accumulation), part) for part in (1, 2)]
    losses(parts, TrainConfig(steps=1, accumulation=accumulation, max_grad_norm=1e9))
    for update, expected in zip(updates, wanted, strict=True):
        torch.testing.assert_close(update.gradients, tuple(expected), rtol=1e-4, atol=1e-6)


FIVE = ("a TOK", "TOK", "in TOK snow", "red TOK", "a hill of TOK")


@pytest.mark.parametrize("rule", [1, 2])
def test_every_sample_of_a_step_weighs_the_same_unless_its_run_began_under_rule_one(rule, updates):
    """Five images in batches of four and one; a lone image used to weigh half of the step."""
    config = TrainConfig(steps=2, accumulation=2, batch_size=4, max_grad_norm=1e9)
    first = next(train(toy_parts(TOK, captions=FIVE, batch_size=4), config)).state()
    assert first.rule == 2
    parts = toy_parts(TOK, captions=FIVE, batch_size=4)
    restore_parameters(first, parts.parameters())
    batches = [draw_batch(parts.data, 0, number, 0.0) for number in (2, 3)]
    assert sorted(len(batch) for batch in batches) == [1, 4]
    updates.clear()
    (report,) = train(parts, config, replace(first, rule=rule))
    assert report.state().rule == rule
    parts = toy_parts(TOK, captions=FIVE, batch_size=4)
    restore_parameters(first, parts.parameters())
    values, *made = leaves(parts)
    each = [loss_by_hand(parts, values, batch) for batch in batches]
    weights = [len(batch) / 5 if rule == 2 else 1 / 2 for batch in batches]
    total = sum(weight * loss for weight, loss in zip(weights, each, strict=True))
    assert report.loss.item() == pytest.approx(total.item(), rel=1e-5)
    for update, part in zip(updates, made, strict=True):
        expected = torch.autograd.grad(total, part, retain_graph=True)
        torch.testing.assert_close(update.gradients, expected, rtol=1e-4, atol=1e-6)


def test_class_images_of_a_step_weigh_the_same_whatever_their_batch():
    """The weight of the whole prior stays what the objective says."""
    data = toy_data(FIVE, batch_size=4)
    steps = [MicroStep(draw_batch(data, 0, i, 0.0), draw_batch(data, 1, i, 0.0)) for i in range(2)]
    made = weighed(steps, 2)
    for weight in ("share", "prior_share"):
        assert sorted(getattr(one, weight) for one in made) == [2 / 5, 8 / 5]
    alike = weighed([steps[0], steps[0]], 2)
    assert [one.share for one in alike] == [1.0, 1.0], "nothing changes where all have one size"


@pytest.mark.parametrize("optimizer", [OptimizerConfig(), PRODIGY], ids=["AdamW", "Prodigy"])
@pytest.mark.parametrize("scale", [1.0, 4096.0])
def test_the_loss_scale_changes_no_bit_in_fp32(scale, optimizer, monkeypatch):
    objective = ObjectiveConfig(prior=Prior.BASE)
    config = TrainConfig(
        steps=5,
        accumulation=3,
        max_grad_norm=0.3,
        objective=objective,
        optimizer=optimizer,
        embedding_optimizer=optimizer,
    )
    parts, other = toy_parts(TOK), toy_parts(TOK)
    assert loop.loss_scale(parts.data) == 16.0
    reported = losses(parts, config)
    monkeypatch.setattr(loop, "loss_scale", lambda _: scale)
    assert losses(other, config) == reported
    assert same(trained(other), trained(parts))


def test_the_loss_scale_is_the_power_of_two_below_a_latents_size():
    data = toy_parts().data
    for shape, scale in {
        (4, 2, 2): 16,
        (4, 3, 3): 32,
        (4, 64, 64): 16384,
        (4, 96, 64): 16384,
    }.items():
        data.latents[0] = torch.zeros(shape)
        assert loop.loss_scale(data) == scale


def test_the_gradients_of_each_part_are_clipped_by_themselves(updates):
    raw = [gradients(toy_parts(TOK, captions=EVERYWHERE), range(1), part) for part in (1, 2)]
    sizes = [torch.cat([g.flatten() for g in grads]).norm().item() for grads in raw]
    cap = (sizes[0] * sizes[1]) ** 0.5
    assert min(sizes) < 0.9 * cap and max(sizes) > 1.1 * cap
    losses(toy_parts(TOK, captions=EVERYWHERE), TrainConfig(steps=1, max_grad_norm=cap))
    for update, grads, size in zip(updates, raw, sizes, strict=True):
        factor = min(1.0, cap / size)
        expected = tuple(g * factor for g in grads)
        torch.testing.assert_close(update.gradients, expected, rtol=1e-4, atol=1e-6)


def test_what_a_batch_does_not_mention_gets_no_gradient_and_is_not_moved_by_weight_decay():
    other = Concept(placeholder="TIK", initial="cat", pivot=1.0)
    parts = toy_parts(TOK, other, captions=("a TOK",))
    before = trained(parts)
    decaying = OptimizerConfig(weight_decay=0.5)
    losses(parts, TrainConfig(steps=3, norm_pull=0.0, embedding_optimizer=decaying))
    after = trained(parts)
    assert torch.equal(after["TIK.clip_l"], before["TIK.clip_l"])
    assert not torch.equal(after["TOK.clip_l"], before["TOK.clip_l"])


@pytest.mark.parametrize("optimizer", [OptimizerConfig(), PRODIGY], ids=["AdamW", "Prodigy"])
def test_a_batch_in_which_nothing_trains_changes_nothing(optimizer):
    """Textual inversion whose captions are all dropped."""
    parts = toy_parts(TOK, lora=None)
    before = trained(parts)
    objective = ObjectiveConfig(caption_dropout=1.0)
    config = TrainConfig(steps=2, norm_pull=0.0, objective=objective, embedding_optimizer=optimizer)
    assert len(losses(parts, config)) == 2
    assert same(trained(parts), before)


def test_steps_after_the_pivot_without_an_adapter_change_nothing():
    parts = toy_parts(Concept(placeholder="TOK", initial="dog", pivot=0.5), lora=None)
    states = [trained(parts) for _ in train(parts, TrainConfig(steps=4))]
    assert same(states[1], states[3])


def test_reports_count_steps_from_0_and_their_losses_hold_no_graph():
    reports = list(train(toy_parts(TOK), TrainConfig(steps=3)))
    assert [report.step for report in reports] == [0, 1, 2]
    assert not any(report.loss.requires_grad for report in reports)


def borrowed(parts: Parts) -> list[int]:
    return [parts.text.attached, parts.denoiser.attached]


def test_the_run_borrows_its_models_and_gives_them_back_at_the_end():
    parts = toy_parts(TOK)
    run = train(parts, TrainConfig(steps=2))
    assert borrowed(parts) == [0, 0]
    next(run)
    assert borrowed(parts) == [1, 1]
    assert parts.text.vectors == vectors_of(parts) and parts.denoiser.adapters == adapters_of(parts)
    next(run)
    assert list(run) == [] and borrowed(parts) == [0, 0]


def test_closing_in_the_middle_gives_the_models_back():
    parts = toy_parts(TOK)
    run = train(parts, TrainConfig(steps=5))
    next(run)
    run.close()
    assert borrowed(parts) == [0, 0]


def test_an_error_of_the_denoiser_gives_the_models_back():
    class Broken(ToyDenoiser):
        def predict(self, *args, **kwargs):
            if len(self.predictions) == 2:
                raise RuntimeError("out of memory")
            return super().predict(*args, **kwargs)

    parts = toy_parts(TOK)
    parts.denoiser = Broken()
    with pytest.raises(RuntimeError, match="out of memory"):
        losses(parts, TrainConfig(steps=5))
    assert borrowed(parts) == [0, 0]


def test_an_error_of_the_text_encoder_before_the_first_step_gives_the_models_back():
    class Mute(ToyText):
        def encode(self, captions):
            raise RuntimeError("no words")

    parts = toy_parts()
    parts.text = Mute()
    with pytest.raises(RuntimeError, match="no words"):
        losses(parts, TrainConfig(steps=5))
    assert borrowed(parts) == [0, 0]
