"""The floor: the bare frozen UNet, forward and backward down to its inputs, no adapter."""

from __future__ import annotations

import torch
from comfy.ldm.modules.attention import attention_pytorch

from .meter import Meter
from .models import load_model
from .setup import Setup


def plain(model: torch.nn.Module) -> None:
    """Turn the weights, made under inference mode, into ones that autograd can record."""
    for module in model.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None and weight.is_inference():
                made = weight.detach().clone()
                module._parameters[name] = torch.nn.Parameter(made, requires_grad=False)


def inputs(setup: Setup, device: torch.device) -> dict[str, torch.Tensor]:
    """Noisy latents, time steps and conditioning that ask for their gradients."""
    draw = torch.Generator().manual_seed(1)
    width = 2048 if "sdxl" in setup.size else 768
    side = setup.latent
    made = {
        "x": torch.randn(setup.batch, 4, side, side, generator=draw),
        "context": torch.randn(setup.batch, 77, width, generator=draw),
    }
    if "sdxl" in setup.size:
        made["y"] = torch.randn(setup.batch, 2816, generator=draw)
    return {name: one.to(device).requires_grad_(name != "y") for name, one in made.items()}


def run(setup: Setup, meter: Meter) -> None:
    import comfy.model_management as management

    model = load_model(setup.size, getattr(torch, setup.dtype))
    management.load_models_gpu([model])
    network, device = model.model.diffusion_model, model.load_device
    compute = model.model.get_dtype_inference()
    with torch.inference_mode(False), torch.enable_grad():
        plain(network)
        meter.ready([network])
        options = {}
        if setup.contender == "floor":
            options["optimized_attention_override"] = lambda _, *a, **k: attention_pytorch(*a, **k)
        steps = torch.full((setup.batch,), 500.0, device=device)
        while True:
            given = {name: one.detach().requires_grad_(one.requires_grad)
                     for name, one in inputs(setup, device).items()}  # fmt: skip
            cast = {name: one.to(compute) for name, one in given.items()}
            output = network(cast.pop("x"), steps, transformer_options=options, **cast)
            output.float().square().mean().backward()
            meter.done()
