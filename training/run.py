"""A run between two steps: its optimizers, its conditioning, and which concepts still train."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from .commands import Command, Finish, to_freeze
from .config import TrainConfig
from .data import MicroStep
from .optimizers.average import Average
from .optimizers.choices import averaged, drop_group, updates
from .optimizers.schedule import rate_factor, set_learning_rates
from .parts import Parts, all_captions
from .randomness import device_generator
from .state import RULE, RunState, averages, restore_optimizers
from .trained import Trained
from .words.concepts import Concept, pivot_steps, with_negatives
from .words.conditions import Conditions


class Run:
    """The optimizers and the conditioning of a run, and what of it still trains."""

    def __init__(self, parts: Parts, config: TrainConfig, start: RunState | None = None):
        self.parts, self.config = parts, config
        self.first_step = start.step if start else 0
        self.rule = start.rule if start else RULE
        self.concepts = with_negatives(parts.concepts)
        self.pivots = pivots_from(self.concepts, config.steps, start)
        self.live = self._live_at(start)
        """What can be frozen alone and still trains, with the thing that it is a part of."""
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._owners: dict[str, Trained] = {}
        for thing in parts.trained:
            made = thing.optimizers(config, self.live)
            self.optimizers |= made
            self._owners |= dict.fromkeys(made, thing)
        self.factor = rate_factor(config.schedule, config.warmup_steps, config.steps)
        parts.notes += self._rates_from_here()
        self.adapts_text = parts.adapts_text
        self.conditions = Conditions(parts.text, self.live, adapted=self.adapts_text)
        self.split = False
        for thing in parts.trained:
            for name, parameters in thing.freezable().items():
                if name not in self.live:
                    freeze(parameters)
        self.average = Average(parts.parameters(), config.ema_decay) if config.ema_decay else None
        if start is not None:
            self.restore(start)
        elif parts.split:
            self.save_memory()
        self.freeze_due(self.first_step)

    def _live_at(self, start: RunState | None) -> dict[str, Trained]:
        """What has not been frozen yet, by its pivot or as a checkpoint says."""
        return {
            name: thing
            for thing in self.parts.trained
            for name in thing.freezable()
            if (name in start.groups(thing.optimizer_names) if start else not self.is_due(name, 0))
        }

    def restore(self, start: RunState) -> None:
        """Put everything but the parameters where it was."""
        self.parts.notes += restore_optimizers(start, self.optimizers)
        if start.split:
            self.save_memory()
        if self.average is not None and start.averaged:
            self.average.restore(averages(start.tensors), start.averaged)

    def _rates_from_here(self) -> list[str]:
        """The learning rates of a run that starts in the middle, of each optimizer's groups."""
        first, last = self.first_step, self.config.steps - 1
        if not first or first > last:
            return []
        rates = {g["name"]: g["rate"] for o in self.optimizers.values() for g in o.param_groups}
        ends = [self.factor(first), self.factor(last)]
        pairs = [(name, *(f"{rate * end:.3g}" for end in ends)) for name, rate in rates.items()]
        each = [n + f" {a}" + (f" to {b}" if a != b else "") for n, a, b in pairs]
        kind = f"{self.config.schedule.value} over {self.config.steps} steps"
        return [f"learning rates from step {first + 1} on: {', '.join(each)} ({kind})"]

    def is_due(self, concept: str, step: int) -> bool:
        """Whether a concept is frozen at a step."""
        return concept in self.pivots and step >= self.pivots[concept]

    def freeze_due(self, step: int) -> None:
        """Freeze every concept whose pivot is at this step, bit for bit, for good."""
        due = {name: thing for name, thing in self.live.items() if self.is_due(name, step)}
        for name, thing in due.items():
            self._drop(name, thing)
            freeze(thing.freezable()[name])
            del self.live[name]
            self.conditions.freeze(name)
        if due and self.average is not None:
            self.average.follow_frozen()

    def _drop(self, name: str, thing: Trained) -> None:
        """Take a group out of its optimizer, and the optimizer out of the run when it is empty."""
        for part in [part for part, owner in self._owners.items() if owner is thing]:
            if name in (group["name"] for group in self.optimizers[part].param_groups):
                drop_group(self.optimizers[part], name)
            if not self.optimizers[part].param_groups:
                del self.optimizers[part], self._owners[part]

    def obey(self, commands: Sequence[Command], step: int) -> bool:
        """Carry out commands before this step begins; returns whether the run continues."""
        self.pivots |= dict.fromkeys(to_freeze(commands, self.live), step)
        self.freeze_due(step)
        return not any(isinstance(command, Finish) for command in commands)

    def save_memory(self) -> bool:
        """Compute sample by sample and recompute blocks from now on; False if that is done."""
        was_whole, self.split = not self.split and self.config.batch_size > 1, True
        return self.parts.denoiser.save_memory() or was_whole

    def averaged(self) -> AbstractContextManager[None]:
        """Let the parameters hold what the run would give as its result now."""
        if self.average is not None:
            return self.average.in_place()
        return averaged(list(self.optimizers.values()))

    def encode_constants(self) -> None:
        """Once no caption's conditioning can change any more, encode each a last time."""
        if not self.live and not self.conditions.complete and not self.adapts_text:
            self.conditions.complete_with(all_captions(self.parts, self.config.objective))

    def set_learning_rates(self, step: int) -> None:
        """Every group's own rate times the schedule's factor."""
        for optimizer in self.optimizers.values():
            set_learning_rates(optimizer, self.factor(step))

    def before_encoding(self, first: MicroStep | None) -> None:
        """Pass on that the captions of a step are about to be encoded."""
        for thing in self.parts.trained:
            thing.before_encoding(first)

    def begin(self, micro_step: MicroStep | None) -> None:
        """Pass on which samples go through the network next."""
        for thing in self.parts.trained:
            thing.begin(micro_step)

    def penalties(self) -> Tensor | float:
        """What trained things themselves add to the loss; the reported loss is without it."""
        terms = [thing.penalty() for thing in self.parts.trained]
        return sum((term for term in terms if term is not None), start=0.0)

    def trainable(self) -> list[nn.Parameter]:
        """Every parameter that an optimizer moves, in an order that all processes share."""
        groups = [group for one in self.optimizers.values() for group in one.param_groups]
        return [parameter for group in groups for parameter in group["params"]]

    def update(self, step: int, scale: float) -> dict[str, Tensor]:
        """One step of every optimizer from gradients that are `scale` times too large.

        Returns the gradients' norms before they are capped. A gradient that is not finite counts
        as zero, so that the parameters stay whole until somebody has seen it.
        """
        norms = dict[str, Tensor]()
        for part, optimizer in self.optimizers.items():
            moved = with_gradient(optimizer)
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
                self._owners[part].updated(optimizer, moved, self.config)
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


def clear_broken(grads: Sequence[Tensor], norm: Tensor) -> None:
    """Zero gradients whose norm is not finite, without waiting for a device.

    Those of text encoders can be on another device than the norm, which is where the first is.
    """
    broken = ~norm.isfinite()
    for grad in grads:
        grad.masked_fill_(broken.to(grad.device), 0)


def with_gradient(optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the groups that the step's samples gave a gradient."""
    groups = optimizer.param_groups
    return [g["name"] for g in groups if any(p.grad is not None for p in g["params"])]


def freeze(parameters: Sequence[nn.Parameter]) -> None:
    """Let parameters gather no gradient, also in captions that still have one."""
    for parameter in parameters:
        parameter.requires_grad_(False)
