"""The training loop: pivotal tuning, textual inversion and LoRA are its different parts."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .adapters.base import Adapter
from .commands import Command
from .config import TrainConfig as TrainConfig
from .data import MicroStep
from .optimizers.choices import settle
from .optimizers.schedule import set_learning_rates
from .ports import Caption
from .run import Parts as Parts
from .run import Run as Run
from .run import loss_scale
from .state import RunState, as_averages, capture, restore_parameters
from .steps import batch_errors, draw, prior_loss
from .words.conditions import StepConditions


@dataclass(frozen=True, slots=True)
class BatchLoss:
    """What one batch weighed: the objective, and of it the error of each sample of the pictures."""

    total: Tensor
    samples: Tensor
    captions: tuple[Caption, ...]


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did; its tensors stay on their device until somebody looks."""

    step: int
    losses: tuple[BatchLoss, ...]
    """One a micro step"""
    norms: Mapping[str, Tensor]
    """Of each optimizer's gradient, before it was capped"""
    run: Run

    @property
    def loss(self) -> Tensor:
        """The objective of the step, a scalar."""
        return torch.stack([loss.total for loss in self.losses]).mean()

    def state(self) -> RunState:
        """A copy of the run as it is now; good until the next step begins or fails."""
        run, average = self.run, self.run.average
        state = capture(self.step + 1, run.parts.parameters(), run.optimizers)
        shares = {concept.final_name: concept.pivot for concept in run.concepts}
        kept = replace(state, pivots=dict(run.pivots), shares=shares, split=run.split)
        if average is None:
            return kept
        tensors = {**kept.tensors, **as_averages(average.tensors())}
        return replace(kept, tensors=tensors, averaged=average.steps)


def train(
    parts: Parts, config: TrainConfig, start: RunState | None = None
) -> Generator[StepReport, Sequence[Command] | None, None]:
    """Train the vectors and adapters of `parts` in place, reporting after every step.

    Commands are sent in. From `start` on the run is, bit for bit, what it would have been without
    the break. Closing the generator, also in the middle, gives the borrowed models back as they
    were.
    """
    with ExitStack() as borrowed:
        if start is not None:
            restore_parameters(start, parts.parameters())
        borrowed.enter_context(parts.text.attach(parts.vectors, parts.text_adapters))
        borrowed.enter_context(parts.denoiser.attach(parts.adapters))
        run = Run(parts, config, start)
        for step in range(run.first_step, config.steps):
            run.settle()
            for optimizer in run.optimizers.values():
                set_learning_rates(optimizer, run.factor(step))
            losses = accumulate(run, step)
            norms = run.update(step, scale=config.accumulation * loss_scale(parts.data))
            run.pivot(step + 1)
            commands = yield StepReport(step, losses, norms, run)
            if commands and not run.obey(commands, step + 1):
                break
        for optimizer in run.optimizers.values():
            settle(optimizer)


def end(parts: Parts, config: TrainConfig, start: RunState) -> None:
    """Leave in `parts` what a run learned that was ended at `start`, without another step."""
    restore_parameters(start, parts.parameters())
    for optimizer in Run(parts, config, start).optimizers.values():
        settle(optimizer)


def accumulate(run: Run, step: int) -> tuple[BatchLoss, ...]:
    """Add the gradients of all batches of a step; out of memory is answered once, with less."""
    count = run.config.accumulation
    micro_steps = [draw(run, step * count + i) for i in range(count)]
    try:
        return add_up(run, micro_steps, step * count)
    except RuntimeError as error:
        if not run.parts.denoiser.is_out_of_memory(error) or not run.save_memory():
            raise
    for parameter in run.parts.parameters().values():
        parameter.grad = None
    return add_up(run, micro_steps, step * count)


def add_up(run: Run, micro_steps: Sequence[MicroStep], first: int) -> tuple[BatchLoss, ...]:
    """Add the gradients of batches, of which the first has this number; one loss for each."""
    begin(run.parts.text_adapters, first)
    conditions = run.conditions.of_step(c for one in micro_steps for c in one.captions())
    losses: list[BatchLoss] = []
    for number, one in enumerate(micro_steps, start=first):
        begin(run.parts.adapters, number)
        losses.append(backward(run, one, conditions))
    conditions.backward()
    for adapters in (run.parts.adapters, run.parts.text_adapters):
        begin(adapters, None)
    return tuple(losses)


def begin(adapters: Mapping[str, Adapter], number: int | None) -> None:
    """Tell adapters which batch comes, for what they draw; None for none that is trained."""
    for adapter in adapters.values():
        adapter.begin(number)


def backward(run: Run, micro_step: MicroStep, conditions: StepConditions) -> BatchLoss:
    """Add the gradients of one batch, and of its prior, times `loss_scale`."""
    scale, weight = loss_scale(run.parts.data), run.config.objective.prior_weight
    samples, totals = list[Tensor](), list[Tensor]()
    for piece in micro_step.pieces() if run.split else [micro_step]:
        errors, noised = batch_errors(run, piece.batch, conditions, piece.negative)
        add_gradients(errors.mean() * piece.share, scale)
        samples.append(errors.detach())
        totals.append(errors.detach().mean() * piece.share)
        if piece.prior is not None:
            prior = prior_loss(run, piece.prior, noised, conditions)
            prior = prior * (weight * piece.prior_share)
            add_gradients(prior, scale)
            totals.append(prior.detach())
    add_gradients(penalties(run.parts), scale)
    captions = micro_step.batch.captions
    return BatchLoss(torch.stack(totals).sum(), torch.cat(samples), captions)


def penalties(parts: Parts) -> Tensor | float:
    """The sum of what the adapters themselves add to the loss; the reported loss is without it."""
    terms = [adapter.penalty() for adapter in parts.every_adapter()]
    return sum((term for term in terms if term is not None), start=0.0)


def add_gradients(loss: Tensor | float, scale: float) -> None:
    """Backward, unless nothing in the batch trains: a dropped caption without an adapter."""
    if isinstance(loss, Tensor) and loss.requires_grad:
        torch.autograd.backward(loss * scale)
