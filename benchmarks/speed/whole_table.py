"""The pivotal step of diffusers' advanced SDXL script, which trains the whole token tables.

Both tables, 49408 rows each plus the new ones, are parameters of the optimizer. After every step
the old rows are written back and the new ones scaled to the spread of the tables.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .meter import Meter
from .peft_lora import make_unet, size_ids, step_loss
from .setup import LEARNING_RATE, Setup

NEW_ROWS = 2
EMBEDDING_RATE = 1e-3


def make_encoders(setup: Setup) -> list[Any]:
    """CLIP-L and CLIP-G of transformers at full size, frozen except for their token tables."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    large = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        projection_dim=768, eos_token_id=2,
    )  # fmt: skip
    giant = CLIPTextConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20,
        projection_dim=1280, hidden_act="gelu", eos_token_id=2,
    )  # fmt: skip
    if setup.text_layers:
        large.num_hidden_layers = giant.num_hidden_layers = setup.text_layers
    encoders = [CLIPTextModel(large), CLIPTextModelWithProjection(giant)]
    for encoder in encoders:
        encoder.resize_token_embeddings(49408 + NEW_ROWS)
        encoder.requires_grad_(False).to(setup.device, getattr(torch, setup.text))
        table(encoder).requires_grad_(True)
    return encoders


def table(encoder: Any) -> nn.Parameter:
    return encoder.get_input_embeddings().weight


class OldRows:
    """The rows that the script writes back after a step."""

    def __init__(self, encoders: list[Any]):
        self._encoders = encoders
        self._before = [table(encoder).detach().clone() for encoder in encoders]
        self._spread = [rows.std().item() for rows in self._before]
        self._old = torch.ones(len(self._before[0]), dtype=torch.bool)
        self._old[-NEW_ROWS:] = False

    @torch.no_grad()
    def restore(self) -> None:
        for encoder, before, spread in zip(self._encoders, self._before, self._spread, strict=True):
            rows = table(encoder).data
            old = self._old.to(rows.device)
            rows[old] = before[old].to(rows)
            new = rows[~old]
            rows[~old] = new * (spread / new.std()) ** 0.1


def encode(encoders: list[Any], ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The penultimate states of both encoders, concatenated, and the second's pooled output."""
    outputs = [encoder(ids, output_hidden_states=True) for encoder in encoders]
    states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return states, outputs[-1][0]


def run(setup: Setup, meter: Meter) -> None:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    torch.manual_seed(0)
    unet, config = make_unet(setup)
    encoders = make_encoders(setup)
    meter.ready([unet, *encoders], encoders)
    unet.add_adapter(config)
    factors = [p for p in unet.parameters() if p.requires_grad]
    tables = [table(encoder) for encoder in encoders]
    optimizer = torch.optim.AdamW(
        [
            {"params": factors, "lr": LEARNING_RATE},
            *({"params": [rows], "lr": EMBEDDING_RATE} for rows in tables),
        ]
    )
    old_rows = OldRows(encoders)
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    ids = torch.tensor([[49406, 320, 1125, 539, 49408, 49409, *[49407] * 71]] * setup.batch)
    while True:
        states, pooled = encode(encoders, ids.to(setup.device))
        extra = {"text_embeds": pooled, "time_ids": size_ids(setup)}
        step_loss(unet, scheduler, setup, states, extra).backward()
        torch.nn.utils.clip_grad_norm_([*factors, *tables], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        old_rows.restore()
        meter.done()
