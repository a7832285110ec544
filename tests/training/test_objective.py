"""The loss on toys in closed form; min-SNR weights are those of diffusers."""

from __future__ import annotations

import math

import pytest
import torch

from pack.training.config import TrainConfig
from pack.training.data import draw_batch
from pack.training.objective import (
    ObjectiveConfig,
    Weighting,
    debiased_weight,
    min_snr_weight,
    offset_noise,
    pointwise_error,
    sample_errors,
    sample_weights,
)
from training.toys import ToyDenoiser, losses, toy_parts


def test_the_loss_is_the_mean_of_weighted_mean_errors():
    output, target = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    weights = torch.tensor([0.5, 2.0, 0.0])
    total = 0.0
    for i in range(3):
        pairs = zip(output[i].flatten().tolist(), target[i].flatten().tolist(), strict=True)
        total += weights[i].item() * sum((a - b) ** 2 for a, b in pairs) / 16
    loss = sample_errors(output, target, weights).mean()
    assert loss.item() == pytest.approx(total / 3, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 5.0, 20.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weights_are_those_of_diffusers(prediction: str, gamma: float):
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
    )
    steps = torch.arange(0, 1000, 7)
    peers = compute_snr(scheduler, steps)
    divisor = peers if prediction == "epsilon" else peers + 1
    expected = peers.clamp(max=gamma) / divisor

    alpha_bar = scheduler.alphas_cumprod[steps].double()
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
    # denoised = noisy - sigma * noise, or noisy / (sigma^2 + 1) - v * sigma / sqrt(sigma^2 + 1)
    gain = -sigma if prediction == "epsilon" else -sigma / (sigma**2 + 1).sqrt()
    ours = min_snr_weight(sigma**-2, gain, gamma)
    torch.testing.assert_close(ours.float(), expected, rtol=2e-6, atol=0)


def noised(*, positions: tuple[float, ...] = (0.0, 0.5, 0.9)):
    latents = torch.randn(len(positions), 4, 2, 2)
    return ToyDenoiser().noised(latents, torch.randn_like(latents), torch.tensor(positions))


def test_gamma_0_and_flow_models_weigh_all_samples_alike():
    config = ObjectiveConfig(min_snr_gamma=5.0)
    assert sample_weights(noised(), config, is_flow=True).tolist() == [1, 1, 1]
    off = ObjectiveConfig(min_snr_gamma=0.0)
    assert sample_weights(noised(), off, is_flow=False).tolist() == [1, 1, 1]
    sigma = [0.1, 1.0, 0.1 * 100**0.9]
    expected = [min(s**-2, 5.0) * s**2 for s in sigma]
    assert sample_weights(noised(), config, is_flow=False).tolist() == pytest.approx(expected)


def test_a_run_on_a_flow_model_ignores_gamma():
    def first_loss(gamma: float, is_flow: bool) -> float:
        objective = ObjectiveConfig(min_snr_gamma=gamma)
        config = TrainConfig(steps=1, accumulation=4, objective=objective)
        return losses(toy_parts(is_flow=is_flow), config)[0]

    assert first_loss(5.0, True) == first_loss(0.0, True) == first_loss(0.0, False)
    assert first_loss(5.0, False) != first_loss(0.0, False)


def test_offset_noise_adds_a_constant_to_each_channel():
    noise, offset = torch.randn(2, 3, 4, 5), torch.randn(2, 3)
    made = offset_noise(noise, offset, 0.1)
    for i in range(2):
        for c in range(3):
            torch.testing.assert_close(made[i, c], noise[i, c] + 0.1 * offset[i, c].item())
    assert offset_noise(torch.zeros(2, 3, 4), offset, 1.0).shape == (2, 3, 4)


def test_without_a_weight_the_noise_is_untouched():
    noise = torch.randn(2, 3, 4, 5)
    assert torch.equal(offset_noise(noise, torch.full((2, 3), math.nan), 0.0), noise)


def test_a_run_noises_and_aims_with_the_offset_noise():
    parts = toy_parts()
    losses(parts, TrainConfig(steps=1, objective=ObjectiveConfig(noise_offset=0.3)))
    batch = draw_batch(parts.data, 0, 0, 0.0)
    used = parts.denoiser.predictions[0].noised
    expected = batch.noise + 0.3 * batch.offset[:, :, None, None]
    torch.testing.assert_close(used.target, expected)
    sigma = used.sigma[:, None, None, None]
    torch.testing.assert_close(used.noisy, batch.latents + sigma * expected)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_debiased_weights_divide_the_noise_loss_by_the_root_of_the_snr(prediction: str):
    """Yu et al. 2023: 1 / sqrt(SNR) on noise; on v the same weight of the picture's error."""
    sigma = torch.logspace(-1, 2, 9, dtype=torch.float64)
    snr = sigma**-2
    gain = -sigma if prediction == "epsilon" else -sigma / (sigma**2 + 1).sqrt()
    wanted = sigma if prediction == "epsilon" else snr.sqrt() / (snr + 1)
    torch.testing.assert_close(debiased_weight(snr, gain), wanted)
    assert debiased_weight(torch.tensor(1e9), torch.tensor(1.0)) < 32


def test_the_weighting_is_chosen():
    batch = noised()
    weights = {
        kind: sample_weights(batch, ObjectiveConfig(weighting=kind), is_flow=False)
        for kind in Weighting
    }
    assert torch.equal(weights[Weighting.NONE], torch.ones(3))
    assert torch.equal(weights[Weighting.DEBIASED], debiased_weight(batch.snr, batch.gain))
    assert torch.equal(weights[Weighting.MIN_SNR], min_snr_weight(batch.snr, batch.gain, 5.0))
    for kind in Weighting:
        flow = sample_weights(batch, ObjectiveConfig(weighting=kind), is_flow=True)
        assert torch.equal(flow, torch.ones(3))


def test_huber_is_the_square_near_and_a_line_far_from_the_target():
    far, near = torch.tensor([1e4, -1e4]), torch.tensor([1e-3, -2e-3]).double()
    zero = torch.zeros(2)
    torch.testing.assert_close(
        pointwise_error(far, zero, 0.1), 2 * 0.1 * (far.abs() - 0.1), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(pointwise_error(near, zero, 10.0), near**2, rtol=1e-6, atol=0)
    assert torch.equal(pointwise_error(far, zero, 0.0), far**2)


@pytest.mark.parametrize("c", [0.05, 1.0])
def test_huber_has_the_gradient_of_the_formula(c: float):
    error = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    pointwise_error(error, torch.zeros(7), c).sum().backward()
    wanted = 2 * c * error.detach() / (error.detach() ** 2 + c**2).sqrt()
    torch.testing.assert_close(error.grad, wanted)


def test_a_run_minimizes_the_huber_loss():
    parts = toy_parts(lora=None, captions=("a hill",), batch_size=1)
    config = TrainConfig(steps=1, objective=ObjectiveConfig(min_snr_gamma=0, huber=0.2))
    (loss,) = losses(parts, config)
    call = parts.denoiser.predictions[0]
    wanted = pointwise_error(call.output, call.noised.target, 0.2).mean().item()
    assert loss == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("huber", -1.0),
        ("logit_std", 0.0),
        ("shift", 0.0),
        ("mode_scale", 2.0),
        ("guidance", -1.0),
        ("negative_guidance", 0.5),
    ],
)
def test_a_number_that_cannot_be_is_named(field: str, value: float):
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        ObjectiveConfig(**{field: value})
