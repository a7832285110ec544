"""What a run trains with, its optimizers and conditioning, and when each concept freezes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .adapters.base import Adapter
from .commands import Command, Finish, to_freeze
from .config import TrainConfig
from .data import EMPTY, TrainingData
from .objective import ObjectiveConfig, Prior
from .optimizers.average import Average
from .optimizers.choices import (
    ADAPTER_RATE,
    EMBEDDING_RATE,
    Algorithm,
    drop_group,
    make_optimizer,
    settled,
    shift_origin,
    updates,
)
from .optimizers.schedule import rate_factor
from .ports import Caption, Denoiser, TextEncoder
from .randomness import device_generator
from .state import RunState, averages, restore_optimizers
from .words.concepts import Concept, class_caption, pivot_steps, with_negatives
from .words.conditions import Conditions
from .words.vectors import Vectors, pull_norms


@dataclass(kw_only=True, slots=True)
class Parts:
    """What a run trains and trains with."""

    denoiser: Denoiser
    text: TextEncoder
    data: TrainingData
    concepts: tuple[Concept, ...]
    vectors: Vectors
    adapters: Mapping[str, Adapter]
    prior_data: TrainingData | None = None
    held_out: TrainingData | None = None
    """Pictures that are never trained on, for validation"""
    text_adapters: Mapping[str, Adapter] = field(default_factory=dict[str, Adapter])
    """Of the text encoders' layers."""
    text_rate: float = 1.0
    """Their learning rate as a share of that of `adapters`."""
    split: bool = False
    """Whether batches go through sample by sample from the start, blocks being recomputed"""

    def every_adapter(self) -> list[Adapter]:
        """Of the denoiser, then of the text encoders."""
        return [*self.adapters.values(), *self.text_adapters.values()]

    def parameters(self) -> dict[str, nn.Parameter]:
        """Everything that a run may change, by a name that is the same in every process."""
        vectors = {
            f"vectors.{name}.{key}": rows
            for name, parts in self.vectors.items()
            for key, rows in parts.items()
        }
        factors = {
            f"{part}.{layer}.{name}": factor
            for part in ("adapters", "text_adapters")
            for layer, adapter in getattr(self, part).items()
            for name, factor in adapter.named_parameters()
        }
        return vectors | factors


class Run:
    """The optimizers and the conditioning of a run, and the concepts that still train."""

    def __init__(self, parts: Parts, config: TrainConfig, start: RunState | None = None):
        self.parts, self.config = parts, config
        self.first_step = start.step if start else 0
        self.concepts = with_negatives(parts.concepts)
        self.pivots = pivots_from(self.concepts, config.steps, start)
        self.norms = parts.text.norms() if parts.vectors else dict[str, float]()
        training = start.training() if start else self.undecided()
        self.live = {c.final_name: c for c in self.concepts if c.final_name in training}
        self.optimizers = _make_optimizers(parts, config, list(self.live))
        self.factor = rate_factor(config.schedule, config.warmup_steps, config.steps)
        self.conditions = Conditions(parts.text, self.live, adapted=bool(parts.text_adapters))
        self.split = False
        for name in parts.vectors.keys() - self.live.keys():
            freeze(parts.vectors[name])
        self.average = Average(parts.parameters(), config.ema_decay) if config.ema_decay else None
        if start is not None:
            self.restore(start)
        elif parts.split:
            self.save_memory()
        self.pivot(self.first_step)

    def undecided(self) -> set[str]:
        """The concepts that train at all."""
        return {c.final_name for c in self.concepts if not self.is_due(c.final_name, 0)}

    def restore(self, start: RunState) -> None:
        """Put everything but the parameters where it was."""
        restore_optimizers(start, self.optimizers)
        if start.split:
            self.save_memory()
        if self.average is not None and start.averaged:
            self.average.restore(averages(start.tensors), start.averaged)

    def is_due(self, concept: str, step: int) -> bool:
        """Whether a concept is frozen at a step."""
        return concept in self.pivots and step >= self.pivots[concept]

    def pivot(self, step: int) -> None:
        """Freeze every concept whose pivot is at this step, bit for bit, for good."""
        due = [name for name in self.live if self.is_due(name, step)]
        for name in due:
            drop_group(self.optimizers["embeddings"], name)
            freeze(self.parts.vectors[name])
            del self.live[name]
            self.conditions.freeze(name)
        if due and self.average is not None:
            self.average.follow_frozen()
        if due and not self.live:
            del self.optimizers["embeddings"]

    def obey(self, commands: Sequence[Command], step: int) -> bool:
        """Do what was asked before this step begins; whether the run goes on."""
        self.pivots |= dict.fromkeys(to_freeze(commands, self.live), step)
        self.pivot(step)
        return not any(isinstance(command, Finish) for command in commands)

    def save_memory(self) -> bool:
        """Compute sample by sample and recompute blocks from now on; False if that is done."""
        was_whole, self.split = not self.split and self.config.batch_size > 1, True
        return self.parts.denoiser.save_memory() or was_whole

    def averaged(self) -> AbstractContextManager[None]:
        """Let the parameters hold what the run would give as its result now."""
        if self.average is not None:
            return self.average.in_place()
        return settled(list(self.optimizers.values()))

    def settle(self) -> None:
        """Once nothing in the captions moves any more, encode each a last time."""
        if not self.live and not self.conditions.settled and not self.parts.text_adapters:
            self.conditions.settle(all_captions(self.parts, self.config.objective))

    def update(self, step: int, scale: float) -> dict[str, Tensor]:
        """One optimizer step of every part from gradients that are `scale` times too large.

        Gives the gradients' norms before they are capped. A gradient that is not finite counts
        as none, so that the parameters stay whole until somebody has seen it.
        """
        norms = dict[str, Tensor]()
        moved = [name for name in self.live if has_gradient(self.parts.vectors[name])]
        for part, optimizer in self.optimizers.items():
            parameters = [p for g in optimizer.param_groups for p in g["params"]]
            grads = [p.grad for p in parameters if p.grad is not None]
            if not grads:
                continue
            torch._foreach_mul_(grads, 1 / scale)  # pyright: ignore
            norms[part] = nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
            clear_broken(grads, norms[part])
            key = (self.config.seed, "rounding", part, step)
            with updates(optimizer, lambda device, key=key: device_generator(device, *key)):
                optimizer.step()
                for name in moved if part == "embeddings" else ():
                    shifts = pull_norms(self.parts.vectors[name], self.norms, self.config.norm_pull)
                    shift_origin(optimizer, shifts)
            optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.step()
        return norms


def pivots_from(concepts: Sequence[Concept], steps: int, start: RunState | None) -> dict[str, int]:
    """The step at which each concept freezes, by its share of the steps or as a run has decided.

    What `start` says holds for what has frozen, and for a concept whose share is as it was: more
    steps leave its pivot where it is.
    """
    planned = pivot_steps(concepts, steps)
    if start is None:
        return planned
    shares = {c.final_name: c.pivot for c in concepts}
    decided = {
        name: step
        for name, step in start.pivots.items()
        if step <= start.step or start.shares.get(name, shares.get(name)) == shares.get(name)
    }
    return planned | decided


def loss_scale(data: TrainingData) -> float:
    """A power of two near the size of a latent, so that fp16 gradients of a mean do not vanish.

    Powers of two change no mantissa: in fp32 the update is the same with and without it.
    """
    return float(2 ** (data.latents[0].numel().bit_length() - 1))


def all_captions(parts: Parts, objective: ObjectiveConfig) -> list[Caption]:
    """Every caption that the run can ask for."""
    captions = [*parts.data.captions, EMPTY]
    for data in (parts.prior_data, parts.held_out):
        captions += data.captions if data is not None else []
    if parts.prior_data is not None:
        return captions
    if objective.prior is Prior.BASE:
        captions += [class_caption(caption, parts.concepts) for caption in captions]
    return captions


def clear_broken(grads: Sequence[Tensor], norm: Tensor) -> None:
    """Make gradients zero where their norm is no finite number, without waiting for a device.

    Those of text encoders can be on another device than the norm, which is where the first is.
    """
    broken = ~norm.isfinite()
    for grad in grads:
        grad.masked_fill_(broken.to(grad.device), 0)


def has_gradient(vectors: Mapping[str, nn.Parameter]) -> bool:
    """Whether the step's captions mentioned the concept."""
    return any(parameter.grad is not None for parameter in vectors.values())


def freeze(vectors: Mapping[str, nn.Parameter]) -> None:
    """Let the vectors of a concept gather no gradient, also in captions that still have one."""
    for parameter in vectors.values():
        parameter.requires_grad_(False)


def _make_optimizers(
    parts: Parts, config: TrainConfig, live: list[str]
) -> dict[str, torch.optim.Optimizer]:
    made: dict[str, torch.optim.Optimizer] = {}
    if live:
        groups = {name: list(parts.vectors[name].values()) for name in live}
        made["embeddings"] = make_optimizer(config.embedding_optimizer, groups, EMBEDDING_RATE)
    return made | _adapter_optimizers(parts, config)


def _adapter_optimizers(parts: Parts, config: TrainConfig) -> dict[str, torch.optim.Optimizer]:
    groups = {"adapters": _trainable(parts.adapters), "text": _trainable(parts.text_adapters)}
    groups = {name: factors for name, factors in groups.items() if factors}
    # Prodigy refuses groups of different rates, since it has one estimate for all of them.
    prodigy = config.optimizer.algorithm is Algorithm.PRODIGY
    apart = prodigy and len(groups) > 1 and parts.text_rate != 1
    together = {name: {name: groups[name]} for name in groups} if apart else {"adapters": groups}
    made = {
        part: make_optimizer(config.optimizer, factors, ADAPTER_RATE)
        for part, factors in together.items()
        if factors
    }
    for group in (g for optimizer in made.values() for g in optimizer.param_groups):
        group["rate"] *= parts.text_rate if group["name"] == "text" else 1.0
    return made


def _trainable(adapters: Mapping[str, Adapter]) -> list[nn.Parameter]:
    return [p for a in adapters.values() for p in a.parameters() if p.requires_grad]
