"""The memory of a step, measured on one sample before the run, and the plan made from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import comfy.model_management as management
import torch
from torch import Tensor, nn

from ....bundles.files.atomic import replace_text
from ....training.data import TrainingData, draw_batch
from ....training.dataset.batches import Batches
from ....training.memory import Cost, Plan, choose
from ....training.run import Parts
from ..disk import Disk
from .port import BYTES_PER_PARAMETER, HostDenoiser
from .recompute import IN_PLACE_BLOCKS


def plan_run(parts: Parts, denoiser: HostDenoiser, batch: int, path: Path, disk: Disk) -> Plan:
    """The plan of a run that leaves the choice to us; one that goes on keeps what it began with.

    Batches of another size have other last bits, so what is free at the moment must not decide
    in the middle of a run.
    """
    cost = measure(parts, denoiser)
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        plan = Plan(
            kept=frozenset(kept["kept"]) & cost.blocks.keys(),
            split=kept["split"],
            reason=f"{kept['reason']}, as when the run began",
        )
    else:
        plan = choose(cost, batch, free_memory(denoiser))
        text = json.dumps(plan.saved, indent=1)
        disk.attempt("The plan of the memory", path, lambda: replace_text(path, text))
    parts.split = plan.split
    denoiser.follow(plan, cost.bytes_for(plan.kept, 1 if plan.split else batch))
    return plan


def free_memory(denoiser: HostDenoiser) -> int:
    """What the host reports as free on the model's device, less what it keeps for itself.

    The model has been loaded by the measurement, so its own bytes are gone from this already.
    """
    device = denoiser.patcher.load_device
    return int(management.get_free_memory(device) - management.extra_reserved_memory())


def measure(parts: Parts, denoiser: HostDenoiser) -> Cost:
    """One sample of the largest size, forward and backward with every block recomputed."""
    largest = max(range(len(parts.data.latents)), key=lambda i: parts.data.latents[i].numel())
    sample = draw_batch(only(parts.data, largest), 0, 0, dropout=0.0)
    with ExitStack() as stack:
        counts = stack.enter_context(denoiser.counting())
        stack.enter_context(parts.text.attach(parts.vectors, parts.text_adapters))
        stack.enter_context(denoiser.attach(parts.adapters))
        conditions = [one.detach() for one in parts.text.encode(sample.captions)]
        noised = denoiser.noised(sample.latents, sample.noise, sample.positions)
        with _kept() as rest:
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
    """The data of one latent alone."""
    return TrainingData(
        latents=[data.latents[item]],
        captions=[data.captions[min(item, len(data.captions) - 1)]],
        crops=[data.crops[item]],
        batches=Batches([0], [1], 1, 0),
    )


def fixed_bytes(parts: Parts, denoiser: HostDenoiser) -> int:
    """Factors with their gradients and moments, and the largest weight as it is computed with."""
    factors = sum(parameter.numel() for parameter in parts.parameters().values())
    network: nn.Module = denoiser.patcher.model.diffusion_model
    largest = max((weight.numel() for weight in network.parameters()), default=0)
    return BYTES_PER_PARAMETER * factors + 2 * 4 * largest


@contextmanager
def _kept() -> Iterator[dict[int, int]]:
    """Bytes by storage of what autograd keeps, without trainable parameters."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # an address is taken anew once its tensor is gone
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept
