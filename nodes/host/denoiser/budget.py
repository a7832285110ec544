"""The memory of a step, measured on one sample before the run, and a plan that fits it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management as management
import torch
from torch import Tensor, nn

from ....bundles.files.atomic import replace_text
from ....bundles.files.foreign import read_object
from ....training.data import TrainingData, draw_batch
from ....training.dataset.batches import Batches
from ....training.memory import Cost, Plan, choose
from ....training.parts import Parts, attached
from ....training.peers import Peers, together
from ..disk import Disk
from .port import BYTES_PER_PARAMETER, HostDenoiser
from .recompute import IN_PLACE_BLOCKS


def plan_run(parts: Parts, denoiser: HostDenoiser, batch: int, path: Path, disk: Disk) -> Plan:
    """The plan of a run that leaves the choice to us; a resumed run keeps its first plan.

    A batch of another size changes the last bits of the result, so the memory that happens to be
    free must not decide in the middle of a run.
    """
    peers = parts.peers
    with together(peers):
        cost = measure_cost(parts, denoiser)
    first = peers.same(Plan.read(read_object(path)))
    if first is not None:
        reason = f"{first.reason}, as when the run began"
        plan = replace(first, kept=first.kept & cost.blocks.keys(), reason=reason)
    else:
        plan = fitting_all(peers, choose(cost, batch, free_memory(denoiser)), cost)
        text = json.dumps(plan.saved, indent=1)
        if peers.rank == 0:
            disk.write("The plan of the memory", path, replace_text, text)
    parts.split = plan.split
    denoiser.follow(plan, cost.bytes_for(plan.kept, 1 if plan.split else batch))
    return plan


def fitting_all(peers: Peers, plan: Plan, cost: Cost) -> Plan:
    """The plan that fits every process: each block that one of them recomputes, all do."""
    blocks = sorted(cost.blocks)
    split, *recomputed = peers.any([plan.split, *(name not in plan.kept for name in blocks)])
    kept = (name for name, again in zip(blocks, recomputed, strict=True) if not again)
    return replace(plan, kept=frozenset(kept), split=split)


def free_memory(denoiser: HostDenoiser) -> int:
    """Bytes free on the model's device, without those that the host reserves for itself."""
    # The measurement has loaded the model, so its weights are already subtracted.
    device = denoiser.patcher.load_device
    free: Any = management.get_free_memory(device)
    return int(free - management.extra_reserved_memory())


def measure_cost(parts: Parts, denoiser: HostDenoiser) -> Cost:
    """Measure one sample of the largest size, forward and backward, with all blocks recomputed."""
    largest = max(range(len(parts.data.latents)), key=lambda i: parts.data.latents[i].numel())
    sample = draw_batch(only(parts.data, largest), 0, 0, dropout=0.0)
    with ExitStack() as stack:
        counts = stack.enter_context(denoiser.counting())
        stack.enter_context(attached(parts))
        conditions = [each.detach() for each in parts.text.encode(sample.captions)]
        noised = denoiser.noised(sample.latents, sample.noise, sample.positions)
        with _kept_storages() as rest:
            output = denoiser.predict(noised, conditions, sample.crops)
        if output.requires_grad:
            output.square().mean().backward()
    for parameter in parts.parameters().values():
        parameter.grad = None
    network = denoiser.patcher.model.diffusion_model
    always = {n for n in counts if type(network.get_submodule(n)).__name__ in IN_PLACE_BLOCKS}
    again = max((counts[name] for name in always), default=0)
    return Cost(
        blocks={name: size for name, size in counts.items() if name not in always},
        rest=sum(rest.values()) + again,
        fixed=fixed_bytes(parts, denoiser),
    )


def only(data: TrainingData, item: int) -> TrainingData:
    """The data of a single latent."""
    return TrainingData(
        latents=[data.latents[item]],
        captions=[data.captions[min(item, len(data.captions) - 1)]],
        crops=[data.crops[item]],
        batches=Batches([0], [1], 1, 0),
    )


def fixed_bytes(parts: Parts, denoiser: HostDenoiser) -> int:
    """Bytes of the factors, their gradients and moments, and of the largest weight when cast."""
    factors = sum(parameter.numel() for parameter in parts.parameters().values())
    network: nn.Module = denoiser.patcher.model.diffusion_model
    largest = max((weight.numel() for weight in network.parameters()), default=0)
    return BYTES_PER_PARAMETER * factors + 2 * 4 * largest


@contextmanager
def _kept_storages() -> Iterator[dict[int, int]]:
    """Bytes of the tensors that autograd saves, by storage, without trainable parameters."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # its address would be used again once it is freed
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept
