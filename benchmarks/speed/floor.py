"""The floor: the bare frozen UNet, forward and backward to its inputs, without adapters."""

from __future__ import annotations

import torch
from comfy.ldm.modules.attention import attention_pytorch

from .meter import Meter
from .models import load_model
from .setup import Setup


def plain(model: torch.nn.Module) -> None:
    """Replace weights made under inference mode by weights that autograd can record."""
    for module in model.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None and weight.is_inference():
                copy = weight.detach().clone()
                module._parameters[name] = torch.nn.Parameter(copy, requires_grad=False)


def inputs(setup: Setup, device: torch.device) -> dict[str, torch.Tensor]:
    """Noisy latents and conditioning that ask for their gradients."""
    rng = torch.Generator().manual_seed(1)
    width = 2048 if "sdxl" in setup.size else 768
    side = setup.latent
    tensors = {
        "x": torch.randn(setup.batch, 4, side, side, generator=rng),
        "context": torch.randn(setup.batch, 77, width, generator=rng),
    }
    if "sdxl" in setup.size:
        tensors["y"] = torch.randn(setup.batch, 2816, generator=rng)
    return {name: t.to(device).requires_grad_(name != "y") for name, t in tensors.items()}


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
            leaves = inputs(setup, device)
            cast = {name: tensor.to(compute) for name, tensor in leaves.items()}
            output = network(cast.pop("x"), steps, transformer_options=options, **cast)
            output.float().square().mean().backward()
            meter.done()
