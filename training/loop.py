"""The training loop: pivotal tuning, textual inversion and LoRA are its different parts."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from .adapters.base import Adapter
from .concepts import Concept, class_caption
from .conditions import Conditions, StepConditions
from .data import EMPTY, Batch, MicroStep, TrainingData, draw_batch
from .embeddings import Vectors, pull_norms
from .objective import ObjectiveConfig, Prior, offset_noise, sample_weights, weighted_mse
from .optimizers import (
    ADAPTER_RATE,
    EMBEDDING_OPTIMIZER,
    EMBEDDING_RATE,
    OptimizerConfig,
    drop_group,
    make_optimizer,
    shift_origin,
)
from .ports import Caption, Denoiser, Noised, TextEncoder
from .schedule import Schedule, rate_factor, set_learning_rates
from .state import RunState, capture, restore_optimizers, restore_parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The settings of a run."""

    steps: int
    batch_size: int = 1
    accumulation: int = 1
    """Micro steps whose gradients make one step."""
    seed: int = 0
    schedule: Schedule = Schedule.CONSTANT
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    """Cap on the gradient norm of each optimizer's parameters."""
    norm_pull: float = 0.1
    """Share of the way to the table's norm that a training vector is pulled after each step."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    embedding_optimizer: OptimizerConfig = EMBEDDING_OPTIMIZER

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: use at least 1.")
        if not 0 <= self.warmup_steps < max(self.steps, 1):
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}: use 0 to {self.steps - 1}, "
                f"fewer than the {self.steps} steps."
            )
        if self.max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm is {self.max_grad_norm}: use more than 0.")
        if not 0 <= self.norm_pull <= 1:
            raise ValueError(f"norm_pull is {self.norm_pull}: use 0 to 1.")


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

    def parameters(self) -> dict[str, nn.Parameter]:
        """Everything that a run may change, by a name that is the same in every process."""
        vectors = {
            f"vectors.{name}.{key}": rows
            for name, parts in self.vectors.items()
            for key, rows in parts.items()
        }
        factors = {
            f"adapters.{layer}.{name}": factor
            for layer, adapter in self.adapters.items()
            for name, factor in adapter.named_parameters()
        }
        return vectors | factors


class Run:
    """The optimizers and the conditioning of a run, and the concepts that still train."""

    def __init__(self, parts: Parts, config: TrainConfig, first_step: int = 0):
        self.parts, self.config = parts, config
        self.norms = parts.text.norms()
        live = [c for c in parts.concepts if c.pivot_step(config.steps) > first_step]
        self.live = {c.final_name: c for c in live}
        self.optimizers = _make_optimizers(parts, config, list(self.live))
        self.factor = rate_factor(config.schedule, config.warmup_steps, config.steps)
        self.conditions = Conditions(parts.text, self.live)
        for name in parts.vectors.keys() - self.live.keys():
            freeze(parts.vectors[name])

    def pivot(self, step: int) -> None:
        """Freeze every concept whose pivot is at this step, bit for bit, for good."""
        due = [n for n, c in self.live.items() if step >= c.pivot_step(self.config.steps)]
        for name in due:
            drop_group(self.optimizers["embeddings"], name)
            freeze(self.parts.vectors[name])
            del self.live[name]
            self.conditions.freeze(name)
        if due and not self.live:
            del self.optimizers["embeddings"]

    def settle(self) -> None:
        """Once nothing in the captions moves any more, encode each a last time."""
        if not self.live and not self.conditions.settled:
            self.conditions.settle(all_captions(self.parts, self.config.objective))

    def update(self, scale: float) -> None:
        """One optimizer step of every part from gradients that are `scale` times too large."""
        moved = [name for name in self.live if has_gradient(self.parts.vectors[name])]
        for optimizer in self.optimizers.values():
            parameters = [p for g in optimizer.param_groups for p in g["params"]]
            grads = [p.grad for p in parameters if p.grad is not None]
            if not grads:
                continue
            torch._foreach_mul_(grads, 1 / scale)  # pyright: ignore
            nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for name in moved:
            shifts = pull_norms(self.parts.vectors[name], self.norms, self.config.norm_pull)
            shift_origin(self.optimizers["embeddings"], shifts)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did; `loss` stays on its device until somebody looks."""

    step: int
    loss: Tensor
    run: Run

    def state(self) -> RunState:
        """A copy of the run as it is now; good until the next step begins or fails."""
        return capture(self.step + 1, self.run.parts.parameters(), self.run.optimizers)


def train(
    parts: Parts, config: TrainConfig, start: RunState | None = None
) -> Generator[StepReport, None, None]:
    """Train the vectors and adapters of `parts` in place, reporting after every step.

    From `start` on the run is, bit for bit, what it would have been without the break. Closing
    the generator, also in the middle, gives the borrowed models back as they were.
    """
    with ExitStack() as borrowed:
        if start is not None:
            restore_parameters(start, parts.parameters())
        borrowed.enter_context(parts.text.attach(parts.vectors))
        borrowed.enter_context(parts.denoiser.attach(parts.adapters))
        run = Run(parts, config, start.step if start else 0)
        if start is not None:
            restore_optimizers(start, run.optimizers)
        for step in range(start.step if start else 0, config.steps):
            run.settle()
            for optimizer in run.optimizers.values():
                set_learning_rates(optimizer, run.factor(step))
            loss = accumulate(run, step)
            run.update(scale=config.accumulation * loss_scale(parts.data))
            run.pivot(step + 1)
            yield StepReport(step, loss, run)


def accumulate(run: Run, step: int) -> Tensor:
    """Add the gradients of all batches of a step, times `loss_scale`; return the mean loss."""
    count = run.config.accumulation
    micro_steps = [draw(run, step * count + i) for i in range(count)]
    conditions = run.conditions.of_step(c for one in micro_steps for c in one.captions())
    losses = [backward(run, one, conditions) for one in micro_steps]
    conditions.backward()
    return torch.stack(losses).mean()


def draw(run: Run, micro_step: int) -> MicroStep:
    """What a micro step is made of, a pure function of the seed and its number."""
    parts, seed, objective = run.parts, run.config.seed, run.config.objective
    batch = draw_batch(parts.data, seed, micro_step, objective.caption_dropout)
    if objective.prior is Prior.NONE:
        return MicroStep(batch, None)
    if parts.prior_data is not None:
        return MicroStep(batch, draw_batch(parts.prior_data, seed + 1, micro_step, dropout=0.0))
    captions = tuple(class_caption(caption, parts.concepts) for caption in batch.captions)
    return MicroStep(batch, replace(batch, captions=captions))


def backward(run: Run, micro_step: MicroStep, conditions: StepConditions) -> Tensor:
    """Add the gradients of one batch, and of its prior, times `loss_scale`; return the loss."""
    scale = loss_scale(run.parts.data)
    loss, noised = batch_loss(run, micro_step.batch, conditions)
    add_gradients(loss + penalties(run.parts), scale)
    if micro_step.prior is not None:
        prior = prior_loss(run, micro_step.prior, noised, conditions)
        prior = prior * run.config.objective.prior_weight
        add_gradients(prior, scale)
        loss = loss.detach() + prior
    return loss.detach()


def penalties(parts: Parts) -> Tensor | float:
    """The sum of what the adapters themselves add to the loss; the reported loss is without it."""
    terms = [adapter.penalty() for adapter in parts.adapters.values()]
    return sum((term for term in terms if term is not None), start=0.0)


def add_gradients(loss: Tensor, scale: float) -> None:
    """Backward, unless nothing in the batch trains: a dropped caption without an adapter."""
    if loss.requires_grad:
        torch.autograd.backward(loss * scale)


def batch_loss(run: Run, batch: Batch, conditions: StepConditions) -> tuple[Tensor, Noised]:
    """The objective on one batch, a scalar with its graph, and what was fed to the network."""
    objective, denoiser = run.config.objective, run.parts.denoiser
    noise = offset_noise(batch.noise, batch.offset, objective.noise_offset)
    noised = denoiser.noised(batch.latents, noise, batch.positions)
    output = denoiser.predict(noised, conditions.of(batch.captions), batch.crops)
    weights = sample_weights(noised, objective, is_flow=denoiser.is_flow)
    return weighted_mse(output, noised.target, weights, batch.mask), noised


def prior_loss(run: Run, prior: Batch, noised: Noised, conditions: StepConditions) -> Tensor:
    """What the model must not forget: class pictures, or its own untrained prediction of the class.

    Class pictures are DreamBooth's prior preservation (Ruiz et al. 2022, arXiv 2208.12242,
    eq. 2); without pictures the frozen base itself says what the class looks like under the
    same noise.
    """
    parts = run.parts
    if parts.prior_data is not None:
        return batch_loss(run, prior, conditions)[0]
    classes = conditions.of(prior.captions)
    with torch.no_grad():
        target = parts.denoiser.predict(noised, classes, prior.crops, adapted=False)
    output = parts.denoiser.predict(noised, classes, prior.crops)
    weights = sample_weights(noised, run.config.objective, is_flow=parts.denoiser.is_flow)
    return weighted_mse(output, target, weights)


def loss_scale(data: TrainingData) -> float:
    """A power of two near the size of a latent, so that fp16 gradients of a mean do not vanish.

    Powers of two change no mantissa: in fp32 the update is the same with and without it.
    """
    return float(2 ** (data.latents[0].numel().bit_length() - 1))


def all_captions(parts: Parts, objective: ObjectiveConfig) -> list[Caption]:
    """Every caption that the run can ask for."""
    captions = [*parts.data.captions, EMPTY]
    if parts.prior_data is not None:
        captions += parts.prior_data.captions
    elif objective.prior is Prior.BASE:
        captions += [class_caption(caption, parts.concepts) for caption in captions]
    return captions


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
    if parts.adapters:
        factors = [p for a in parts.adapters.values() for p in a.parameters() if p.requires_grad]
        made["adapters"] = make_optimizer(config.optimizer, {"adapters": factors}, ADAPTER_RATE)
    return made
