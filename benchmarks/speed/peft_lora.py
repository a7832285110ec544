"""diffusers and peft: the LoRA step of their training scripts, on the same shapes."""

from __future__ import annotations

from typing import Any

import torch

from .meter import Meter
from .setup import LEARNING_RATE, PICTURES, Setup

XL: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sdxl": XL
    | {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
    },
    "tiny": {
        "block_out_channels": (320,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "mid_block_type": None,
        "layers_per_block": 1,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    # Seven transformer blocks of width 320, as in the host's smallest SDXL.
    "tiny_sdxl": XL
    | {
        "block_out_channels": (320,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "mid_block_type": None,
        "layers_per_block": 3,
        "transformer_layers_per_block": ((1, 2, 4),),
        "attention_head_dim": 5,
    },
}
TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]


def make_unet(setup: Setup) -> tuple[Any, Any]:
    """A frozen UNet2DConditionModel, and the LoRA for its attention layers."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from peft import LoraConfig

    unet: Any = UNet2DConditionModel(sample_size=setup.latent, **CONFIGS[setup.size])
    unet.requires_grad_(False).to(setup.device, getattr(torch, setup.dtype))
    if setup.checkpointing == "on":
        unet.enable_gradient_checkpointing()
    config = LoraConfig(
        r=setup.rank, lora_alpha=setup.rank, init_lora_weights="gaussian", target_modules=TARGETS
    )
    return unet, config


def size_ids(setup: Setup) -> torch.Tensor:
    """SDXL's original size, crop and target size."""
    side = 8 * setup.latent
    return torch.tensor([[side, side, 0, 0, side, side]] * setup.batch, device=setup.device)


def noised(scheduler: Any, setup: Setup) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch of noisy latents, their noise and their time steps."""
    shape = (setup.batch, 4, setup.latent, setup.latent)
    latents = torch.randn(shape, device=setup.device)
    noise = torch.randn_like(latents)
    steps = torch.randint(0, 1000, (setup.batch,), device=setup.device)
    return scheduler.add_noise(latents, noise, steps), noise, steps


def run(setup: Setup, meter: Meter) -> None:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    torch.manual_seed(0)
    unet, config = make_unet(setup)
    meter.ready([unet])
    unet.add_adapter(config)
    factors = [p for p in unet.parameters() if p.requires_grad]
    for factor in factors:
        factor.data = factor.data.float()
    optimizer = torch.optim.AdamW(factors, lr=LEARNING_RATE)
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    width = unet.config.cross_attention_dim
    texts = torch.randn(PICTURES, 77, width, device=setup.device)
    pooled = torch.randn(PICTURES, 1280, device=setup.device)
    while True:
        chosen = torch.randint(0, PICTURES, (setup.batch,), device=setup.device)
        extra = {"text_embeds": pooled[chosen], "time_ids": size_ids(setup)}
        loss = step_loss(unet, scheduler, setup, texts[chosen], extra)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(factors, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        meter.done()


def step_loss(
    unet: Any, scheduler: Any, setup: Setup, text: torch.Tensor, extra: dict[str, torch.Tensor]
) -> torch.Tensor:
    """The mean squared error of the predicted noise."""
    noisy, noise, steps = noised(scheduler, setup)
    dtype = getattr(torch, setup.dtype)
    added = {"added_cond_kwargs": extra} if "sdxl" in setup.size else {}
    with torch.autocast(setup.device, dtype, enabled=dtype != torch.float32):
        output = unet(noisy.to(dtype), steps, text.to(dtype), **added, return_dict=False)[0]
    return torch.nn.functional.mse_loss(output.float(), noise)
