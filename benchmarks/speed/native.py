"""ComfyUI's own Train LoRA node, with its defaults or in bypass mode at its fastest."""

from __future__ import annotations

from typing import Any

import torch

from .meter import Meter
from .models import load_model
from .setup import PICTURES, Setup

DEFAULTS: dict[str, Any] = {
    "grad_accumulation_steps": 1,
    "learning_rate": 0.0005,
    "optimizer": "AdamW",
    "loss_function": "MSE",
    "seed": 0,
    "training_dtype": "bf16",
    "lora_dtype": "bf16",
    "quantized_backward": False,
    "algorithm": "LoRA",
    "gradient_checkpointing": True,
    "checkpoint_depth": 1,
    "offloading": False,
    "existing_lora": "[None]",
    "bucket_mode": False,
    "bypass_mode": False,
}
FP32 = {"training_dtype": "fp32", "lora_dtype": "fp32"}
CHANGED: dict[str, dict[str, Any]] = {
    "native": {},
    "native_fp32": FP32,
    "native_bypass": FP32 | {"bypass_mode": True, "gradient_checkpointing": False},
}
"""What differs from the defaults; bypass mode gets the settings that are fastest on a CPU."""


def conditioning(setup: Setup) -> list[Any]:
    """A CONDITIONING of random numbers."""
    rng = torch.Generator().manual_seed(2)
    if "sdxl" in setup.size:
        pooled = torch.randn(1, 1280, generator=rng)
        return [[torch.randn(1, 77, 2048, generator=rng), {"pooled_output": pooled}]]
    return [[torch.randn(1, 77, 768, generator=rng), {}]]


def options_of(setup: Setup) -> dict[str, Any]:
    """The node's inputs."""
    options = DEFAULTS | {"batch_size": setup.batch, "rank": setup.rank, "steps": 100_000}
    options |= CHANGED[setup.contender]
    return {name: [value] for name, value in options.items()}


def run(setup: Setup, meter: Meter) -> None:
    import comfy.model_management as management
    from comfy_extras.nodes_train import TrainLoraNode
    from torch.optim.optimizer import register_optimizer_step_post_hook

    model = load_model(setup.size, getattr(torch, setup.dtype))
    management.load_models_gpu([model])
    rng = torch.Generator().manual_seed(3)
    latents = torch.randn(PICTURES, 4, setup.latent, setup.latent, generator=rng)
    meter.ready([model.model.diffusion_model])
    # Nothing else of the node shows from outside that a step has ended.
    register_optimizer_step_post_hook(lambda *_: meter.done())
    with torch.inference_mode():
        TrainLoraNode.execute(
            model=[model],
            latents=[{"samples": latents}],
            positive=[conditioning(setup)],
            **options_of(setup),
        )
