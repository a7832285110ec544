"""Training targets against closed forms, the host's own model and diffusers."""

from __future__ import annotations

import math
from typing import Any

import comfy.model_management as management
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingSD3
from torch import Tensor

from harness.host.measure import borrowed, make_batch
from harness.host.runner import Loaded
from pack.nodes.host.denoiser.port import HostDenoiser
from pack.training.config import TrainConfig
from pack.training.data import TrainingData, draw_batch
from pack.training.dataset.batches import Batches
from pack.training.loop import batch_errors
from pack.training.objective import ObjectiveConfig, min_snr_weight
from pack.training.parts import Parts
from pack.training.ports import Noised
from pack.training.run import Run

SCALE = 0.18215
"""Of SD1.5's latents (Rombach et al. 2022, the released autoencoder)."""
SHIFT = 3.0
KINDS = ["eps", "v", "zsnr", "flow"]
BEFORE_ONE = math.nextafter(1, 0)


def as_kind(model: Any, kind: str) -> Any:
    """The MODEL with another prediction, as the host's own nodes change it."""
    if kind == "eps":
        return model
    if kind == "flow":
        return ModelSamplingSD3().patch(model, shift=SHIFT)[0]
    return ModelSamplingDiscrete().patch(model, "v_prediction", zsnr=kind == "zsnr")[0]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """How the model predicts."""
    return request.param


@pytest.fixture
def model(sd15: Loaded, kind: str) -> Any:
    """The fixture's MODEL, predicting in that way."""
    return as_kind(sd15.model, kind)


def closed_form(kind: str, x0: Tensor, noise: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    """What noising and its target are, by the papers, for latents in the network's own scale.

    eps: Ho et al. 2020; v: Salimans and Ho 2022, written for x0 + sigma n; flow: Lipman et al.
    2022 with the straight path.
    """
    s = sigma.reshape(-1, 1, 1, 1)
    if kind == "flow":
        return {
            "noisy": s * noise + (1 - s) * x0,
            "target": noise - x0,
            "snr": ((1 - sigma) / sigma).square(),
            "gain": -sigma,
        }
    forms = {"noisy": x0 + s * noise, "snr": sigma**-2}
    if kind == "eps":
        return {**forms, "target": noise, "gain": -sigma}
    root = (s.square() + 1).sqrt()
    return {**forms, "target": (noise - s * x0) / root, "gain": -sigma / root.flatten()}


def close(found: Tensor, wanted: Tensor, bound: float) -> bool:
    return torch.allclose(found.double(), wanted.double(), rtol=bound, atol=bound)


def test_a_noised_batch_is_the_closed_form(model: Any, kind: str):
    batch = make_batch([("",)] * 5)
    denoiser = HostDenoiser(model, checkpointing=False)
    noised = batch.noised(denoiser)
    wanted = closed_form(kind, SCALE * batch.latents.double(), batch.noise, noised.sigma.double())
    for name, value in wanted.items():
        scale = value.abs().max()
        assert close(getattr(noised, name) / scale, value / scale, 1e-6), name
    assert denoiser.is_flow == (kind == "flow")


@torch.no_grad()
def host_output(model: Any, noised: Noised, condition: Tensor, kind: str) -> Tensor:
    """The network's output, solved from what the host's unpatched model calls denoised."""
    management.load_models_gpu([model])
    model.pre_run()
    denoised = model.model.apply_model(noised.noisy, noised.sigma, c_crossattn=condition).double()
    model.cleanup()
    x, s = noised.noisy.double(), noised.sigma.double().reshape(-1, 1, 1, 1)
    if kind in ("eps", "flow"):
        return (x - denoised) / s
    return (x / (s.square() + 1) - denoised) * (s.square() + 1).sqrt() / s


@torch.no_grad()
def test_the_network_puts_out_what_the_host_denoises_with(sd15: Loaded, model: Any, kind: str):
    batch = make_batch([("a dog",), ("a cat",)])
    condition = torch.cat([sd15.clip.encode("a dog"), sd15.clip.encode("a cat")])
    with borrowed(sd15, model=model) as ports:
        noised = batch.noised(ports.denoiser)
        found = ports.predict(batch)
    wanted = host_output(model, noised, condition, kind)
    assert close(found / wanted.std(), wanted / wanted.std(), 1e-5)


@pytest.mark.parametrize("kind", ["eps", "v", "zsnr"])
def test_min_snr_weights_are_those_of_diffusers(sd15: Loaded, model: Any, kind: str):
    """The weights of its training scripts: min(SNR, 5) / SNR for noise, / (SNR + 1) for v."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        rescale_betas_zero_snr=kind == "zsnr",
    )
    steps = torch.arange(1000)
    snr = compute_snr(scheduler, steps).double()
    wanted = snr.clamp(max=5) / (snr if kind == "eps" else snr + 1)
    noised = at_positions(model, (steps + 0.5) / 1000)
    found = min_snr_weight(noised.snr, noised.gain, 5.0)
    last = slice(0, 999 if kind == "zsnr" else 1000)
    assert torch.allclose(found[last].double(), wanted[last], rtol=1e-4)
    assert torch.allclose(noised.snr[last].double(), snr[last], rtol=1e-4)


def at_positions(model: Any, positions: Tensor) -> Noised:
    latents = torch.zeros(len(positions), 4, 1, 1)
    denoiser = HostDenoiser(model, checkpointing=False)
    return denoiser.noised(latents, torch.ones_like(latents), positions.double())


@pytest.mark.parametrize("kind", ["eps", "v", "zsnr"])
def test_every_step_of_a_schedule_is_drawn_as_often_as_the_others(model: Any, kind: str):
    schedule = model.get_model_object("model_sampling").sigmas
    inside = (torch.arange(1000) + torch.rand(1000, dtype=torch.float64)) / 1000
    assert torch.equal(at_positions(model, inside).sigma, schedule)
    ends = at_positions(model, torch.tensor([0, BEFORE_ONE], dtype=torch.float64)).sigma
    assert torch.equal(ends, schedule[[0, -1]])


@pytest.mark.parametrize("kind", ["flow"])
def test_flow_positions_are_even_in_the_hosts_time(model: Any, kind: str):
    """The host's schedule is shift * t / (1 + (shift - 1) * t) for even t from 1/1000 to 1."""
    positions = torch.linspace(0, BEFORE_ONE, 501, dtype=torch.float64)
    sigma = at_positions(model, positions).sigma.double()
    time = sigma / (SHIFT - (SHIFT - 1) * sigma)
    assert close(time, 0.001 + 0.999 * positions, 1e-5)
    schedule = model.get_model_object("model_sampling")
    assert close(sigma[[0, -1]], torch.stack([schedule.sigma_min, schedule.sigma_max]), 1e-6)


def loss_parts(loaded: Loaded, denoiser: HostDenoiser, text: Any) -> Parts:
    """Two plain captions, nothing that trains: the loss of the base model itself."""
    batch = make_batch([("a dog",), ("a cat",)])
    return Parts(
        denoiser=denoiser,
        text=text,
        data=TrainingData(
            latents=list(batch.latents),
            captions=batch.captions,
            crops=batch.crops,
            batches=Batches([0, 0], [1, 1], 2, seed=0),
        ),
        concepts=(),
        trained=(),
    )


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("gamma", [0.0, 5.0])
def test_the_loss_of_a_batch_is_the_closed_form(sd15: Loaded, model: Any, kind: str, gamma: float):
    config = TrainConfig(
        steps=1, batch_size=2, objective=ObjectiveConfig(min_snr_gamma=gamma, noise_offset=0.1)
    )
    with borrowed(sd15, model=model) as ports, torch.no_grad():
        parts = loss_parts(sd15, ports.denoiser, ports.text)
        drawn = draw_batch(parts.data, config.seed, 0, dropout=0.0)
        run = Run(parts, config)
        conditions = run.conditions.of_step(drawn.captions)
        found = batch_errors(run, drawn, conditions)[0].mean().item()
    noise = drawn.noise + 0.1 * drawn.offset[:, :, None, None]
    sigma = model.get_model_object("model_sampling").sigmas[(drawn.positions * 1000).long()]
    form = closed_form(kind, SCALE * drawn.latents, noise, sigma)
    noised = Noised(sigma=sigma, **form)
    condition = torch.cat([sd15.clip.encode(caption[0]) for caption in drawn.captions])
    error = (host_output(model, noised, condition, kind) - form["target"]).square().mean((1, 2, 3))
    snr = form["snr"]
    weights = (snr.clamp(max=gamma) / (snr if kind == "eps" else snr + 1)) if gamma else 1
    assert found == pytest.approx((weights * error).mean().item(), rel=1e-4)
