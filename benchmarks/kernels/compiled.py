"""Training blocks of SD1.5's UNet with LoRA, plain and through torch.compile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .turns import Row, compare

IDEA = "torch.compile"
CHANNELS, SIDE, CONTEXT, RANK, PAIRS = 640, 16, 768, 8, 16


class Holder:
    """The part of a MODEL that the injection uses."""

    is_injected = False

    def __init__(self) -> None:
        self.injections: dict[str, list[Any]] = {}

    def set_injections(self, key: str, injections: list[Any]) -> None:
        self.injections[key] = injections


def transformer(dtype: torch.dtype) -> tuple[nn.Module, list[Tensor], dict[str, Any]]:
    """Self-attention, cross-attention and MLP, with their inputs and options."""
    import comfy.ops
    from comfy.ldm.modules.attention import BasicTransformerBlock

    from pack.nodes.host.denoiser.user_patches import differentiable_attention

    kinds: dict[str, Any] = {"dtype": dtype, "operations": comfy.ops.manual_cast}
    block = BasicTransformerBlock(CHANNELS, 8, CHANNELS // 8, context_dim=CONTEXT, **kinds)
    options = {"optimized_attention_override": differentiable_attention}
    inputs = [torch.randn(1, SIDE * SIDE, CHANNELS), torch.randn(1, 77, CONTEXT)]
    return block, inputs, {"transformer_options": options}


def residual(dtype: torch.dtype) -> tuple[nn.Module, list[Tensor], dict[str, Any]]:
    """Two norms and convolutions, with the time embedding."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock

    block = ResBlock(CHANNELS, 1280, 0.0, dtype=dtype, operations=comfy.ops.manual_cast)
    return block, [torch.randn(1, CHANNELS, SIDE, SIDE), torch.randn(1, 1280)], {}


def prepared(block: nn.Module) -> list[nn.Parameter]:
    """Freeze a block's layers, put LoRA on all of them, and return its factors."""
    from pack.nodes.host.denoiser.injection import KEY, TrainingInjection
    from pack.nodes.host.denoiser.layers import adaptable_layers
    from pack.training.adapters import build_adapters
    from pack.training.adapters.lora import LoraConfig
    from pack.training.adapters.targets import Targets

    for weight in block.parameters():
        weight.requires_grad_(False)
        spread = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
        weight.copy_(torch.randn(weight.shape) * spread)
    config = LoraConfig(rank=RANK, alpha=RANK, targets=Targets.PATTERNS, patterns=f". = {RANK}")
    adapters = build_adapters(config, adaptable_layers(block, lambda: None), 0)
    holder = Holder()
    TrainingInjection(root=block, adapters=adapters).install(holder)  # pyright: ignore
    holder.injections[KEY][0].inject(holder)
    return [factor for adapter in adapters.values() for factor in adapter.parameters()]


def kept_bytes(
    run: Callable[[Callable[..., Tensor]], Tensor],
    forward: Callable[..., Tensor],
    resident: set[int],
) -> int:
    """What autograd keeps for the backward pass besides the weights and factors themselves."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in resident:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run(forward)
    return sum(kept.values())


def row(name: str, make: Callable[[torch.dtype], Any], dtype: torch.dtype) -> Row:
    """Time one block forward and backward; the note says how long compiling it took."""
    block, inputs, options = make(dtype)
    with torch.no_grad():
        factors = prepared(block)
    leaves = [*(tensor.requires_grad_() for tensor in inputs), *factors]
    compiled = torch.compile(block.forward, dynamic=False)

    def run(forward: Callable[..., Tensor]) -> Tensor:
        # A copy, since blocks may change their input.
        return forward(inputs[0].clone(), *inputs[1:], **options)

    def step(forward: Callable[..., Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad(run(forward).square().sum(), leaves))

    began = time.perf_counter()
    gradients, expected = step(compiled), step(block.forward)
    took = time.perf_counter() - began
    for a, b in zip(gradients, expected, strict=True):
        if (a - b).norm() > 1e-4 * b.norm():
            raise ValueError(f"{IDEA} gives another gradient of {name}.")
    resident = {t.untyped_storage().data_ptr() for t in (*block.parameters(), *factors)}
    sizes = [kept_bytes(run, forward, resident) for forward in (block.forward, compiled)]
    measured = compare(IDEA, name, lambda: step(block.forward), lambda: step(compiled), PAIRS)
    kept = " and ".join(f"{size / 2**20:.1f} MB" for size in sizes)
    return replace(measured, note=f"compiled in {took:.0f} s; kept for backward: {kept}")


def rows() -> Iterator[Row]:
    import torch._inductor.config

    # With the cache of an earlier call, compiling would seem to take no time.
    torch._inductor.config.force_disable_caches = True
    cases = (
        ("attention and MLP", transformer, torch.float16),
        ("attention and MLP", transformer, torch.float32),
        ("convolutions", residual, torch.float32),
    )
    for name, make, dtype in cases:
        weights = str(dtype).removeprefix("torch.")
        yield row(f"{name}, {CHANNELS} channels, {SIDE}x{SIDE}, {weights} weights", make, dtype)
