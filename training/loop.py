"""The training loop: pivotal tuning, textual inversion and LoRA differ in what they train alone."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .commands import Command
from .config import TrainConfig
from .data import Batch, MicroStep, draw_batch
from .objective import Prior, errors, offset_noise
from .optimizers.choices import take_average
from .parts import Parts, attached, loss_scale
from .peers import Peers, sum_gradients, together
from .ports import Caption, Noised
from .run import Run
from .state import RunState, as_averages, capture, restore_parameters
from .words.concepts import class_caption, negative_captions
from .words.conditions import StepConditions


@dataclass(frozen=True, slots=True)
class BatchLoss:
    """The loss of one batch: the whole objective, and the error of each of its samples."""

    total: Tensor
    """Scalar, prior included"""
    samples: Tensor
    """(batch,)"""
    captions: tuple[Caption, ...]


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did; its tensors stay on their device until somebody looks."""

    step: int
    losses: tuple[BatchLoss, ...]
    """One for each micro step"""
    norms: dict[str, Tensor]
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
        state = replace(state, pivots=dict(run.pivots), shares=shares)
        state = replace(state, split=run.split, rule=run.rule)
        if average is None:
            return state
        tensors = {**state.tensors, **as_averages(average.tensors())}
        return replace(state, tensors=tensors, averaged=average.steps)


def train(
    parts: Parts, config: TrainConfig, start: RunState | None = None
) -> Generator[StepReport, Sequence[Command] | None, None]:
    """Train `parts` in place, reporting after every step; commands are sent in.

    From `start` on the run is, bit for bit, what it would have been without the break. Closing
    the generator, also in the middle, gives the borrowed models back as they were.
    """
    if start is not None:
        restore_parameters(start, parts.parameters())
    with attached(parts):
        run = Run(parts, config, start)
        for step in range(run.first_step, config.steps):
            run.set_learning_rates(step)
            losses = accumulate(run, step)
            sum_gradients(parts.peers, run.trainable(), [t for one in losses for t in numbers(one)])
            norms = run.update(step, scale=config.accumulation * loss_scale(parts.data))
            run.freeze_due(step + 1)
            # Rank 0's commands: a person asks one process, and all of them have to obey.
            commands = parts.peers.same((yield StepReport(step, losses, norms, run)))
            if commands and not run.obey(commands, step + 1):
                break
        for optimizer in run.optimizers.values():
            take_average(optimizer)


def end(parts: Parts, config: TrainConfig, start: RunState) -> None:
    """Leave in `parts` what a run learned that was ended at `start`, without another step."""
    restore_parameters(start, parts.parameters())
    for optimizer in Run(parts, config, start).optimizers.values():
        take_average(optimizer)


def accumulate(run: Run, step: int) -> tuple[BatchLoss, ...]:
    """Add the gradients of all batches of a step; out of memory is answered with less at once."""
    count, peers = run.config.accumulation, run.parts.peers
    micro_steps = weighed([draw(run, step * count + i) for i in range(count)], run.rule)
    while True:
        losses, short = None, None
        # All that models compute in a step happens here, and Cancel can end it in any layer. The
        # other processes hear of it now and not in the sum of gradients, where they would wait.
        with together(peers):
            try:
                run.encode_constants()
                losses = add_up(run, micro_steps, share(micro_steps, peers))
            except RuntimeError as error:
                if not run.parts.denoiser.is_out_of_memory(error):
                    raise
                # Its traceback holds the frames, and they the tensors that have to go.
                short = error.with_traceback(None)
        # One process that runs short makes all of them start the step again, each with less.
        (anywhere,) = peers.any([losses is None])
        if losses is not None and not anywhere:
            return losses
        for parameter in run.parts.parameters().values():
            parameter.grad = None
        if not run.save_memory():
            raise short or RuntimeError("Another process of this run has too little memory.")


def weighed(micro_steps: Sequence[MicroStep], rule: int) -> list[MicroStep]:
    """The batches of a step with weights that make every sample of the step weigh the same.

    A bucket's last batch may be smaller than the others. Where all are of one size their weights
    are exactly 1.
    """
    if rule < 2:
        return list(micro_steps)
    count, samples = len(micro_steps), sum(len(one.batch) for one in micro_steps)
    priors = sum(len(one.prior) for one in micro_steps if one.prior)
    return [
        replace(
            one,
            share=count * len(one.batch) / samples,
            prior_share=count * len(one.prior) / priors if one.prior else 1.0,
        )
        for one in micro_steps
    ]


def share(micro_steps: Sequence[MicroStep], peers: Peers) -> list[MicroStep | None]:
    """This process's part of each micro step, if it has one: samples are divided, not batches."""
    mine = peers.share(sum(len(one.batch) for one in micro_steps))
    parts, first = list[MicroStep | None](), 0
    for one in micro_steps:
        size = len(one.batch)
        start, stop = max(mine.start - first, 0), min(mine.stop - first, size)
        parts.append(one.part(start, stop) if start < stop else None)
        first += size
    return parts


def add_up(
    run: Run, micro_steps: Sequence[MicroStep], mine: Sequence[MicroStep | None]
) -> tuple[BatchLoss, ...]:
    """Add the gradients of this process's parts; returns one loss for each whole micro step."""
    run.before_encoding(micro_steps[0])
    conditions = run.conditions.of_step(c for part in mine if part for c in part.captions())
    pairs = zip(micro_steps, mine, strict=True)
    losses = [backward(run, whole, part, conditions) for whole, part in pairs]
    # The encoders' own backward, once for all micro steps: they have gathered in its results.
    conditions.backward()
    run.before_encoding(None)
    run.begin(None)
    return tuple(losses)


def backward(
    run: Run, whole: MicroStep, part: MicroStep | None, conditions: StepConditions
) -> BatchLoss:
    """Add the gradients of a part of a batch, and of its prior, times `loss_scale`.

    The loss has the shapes of the whole batch, with zeros for what other processes compute.
    """
    scale, weight = loss_scale(run.parts.data), run.config.objective.prior_weight
    samples, totals = list[Tensor](), list[Tensor]()
    for piece in [] if part is None else part.pieces() if run.split else [part]:
        run.begin(piece)
        each, noised = batch_errors(run, piece.batch, conditions, piece.negative)
        add_gradients(each.mean() * piece.share, scale)
        samples.append(each.detach())
        totals.append(each.detach().mean() * piece.share)
        if piece.prior is not None:
            prior = prior_loss(run, piece.prior, noised, conditions)
            prior = prior * (weight * piece.prior_share)
            add_gradients(prior, scale)
            totals.append(prior.detach())
    if part is not None:
        add_gradients(run.penalties() * part.share, scale)
    return put_in_place(run, whole, part, totals, samples)


def put_in_place(
    run: Run,
    whole: MicroStep,
    part: MicroStep | None,
    totals: Sequence[Tensor],
    samples: Sequence[Tensor],
) -> BatchLoss:
    """The loss of a part at its place in the whole batch."""
    captions = whole.batch.captions
    if part is whole:
        return BatchLoss(torch.stack(list(totals)).sum(), torch.cat(list(samples)), captions)
    device = next(iter(run.parts.parameters().values())).device
    row = torch.zeros(len(captions), device=device)
    if part is None:
        return BatchLoss(torch.zeros((), device=device), row, captions)
    row[part.place : part.place + len(part.batch)] = torch.cat(list(samples)).to(row)
    return BatchLoss(torch.stack(list(totals)).sum().to(row), row, captions)


def numbers(loss: BatchLoss) -> tuple[Tensor, Tensor]:
    """What the processes of a run add up of a loss."""
    return loss.total, loss.samples


def add_gradients(loss: Tensor | float, scale: float) -> None:
    """Backward, unless nothing in the batch trains: a dropped caption without an adapter."""
    if isinstance(loss, Tensor) and loss.requires_grad:
        torch.autograd.backward(loss * scale)


def draw(run: Run, number: int) -> MicroStep:
    """What a micro step is made of, a pure function of the seed and its number."""
    parts, seed, objective = run.parts, run.config.seed, run.config.objective
    batch = draw_batch(parts.data, seed, number, objective.caption_dropout, objective)
    negative = negative_captions(batch.captions, run.live)
    return MicroStep(batch, draw_prior(run, batch, number), negative, number=number)


def draw_prior(run: Run, batch: Batch, number: int) -> Batch | None:
    """The class pictures for a batch, or the batch's own with the names of their classes."""
    parts, objective = run.parts, run.config.objective
    if objective.prior is Prior.NONE:
        return None
    if parts.prior_data is not None:
        return draw_batch(parts.prior_data, run.config.seed + 1, number, 0.0, objective)
    captions = tuple(class_caption(caption, parts.concepts) for caption in batch.captions)
    return replace(batch, captions=captions)


def batch_errors(
    run: Run, batch: Batch, conditions: StepConditions, negative: Sequence[Caption] = ()
) -> tuple[Tensor, Noised]:
    """The objective on each sample, (batch,) with its graph, and what was fed to the network.

    With `negative` captions it is that of the prediction under classifier-free guidance away
    from them (Dong et al. 2022, arXiv 2211.11337), at the price of a second prediction.
    """
    objective, denoiser = run.config.objective, run.parts.denoiser
    noised = noised_of(run, batch)
    output = denoiser.predict(noised, conditions.of(batch.captions), batch.crops)
    if negative:
        away = denoiser.predict(noised, conditions.of(negative), batch.crops)
        output = away + objective.negative_guidance * (output - away)
    flow = denoiser.is_flow
    return errors(output, noised.target, noised, objective, is_flow=flow, mask=batch.mask), noised


def noised_of(run: Run, batch: Batch) -> Noised:
    """The batch's latents under its noise."""
    noise = offset_noise(batch.noise, batch.offset, run.config.objective.noise_offset)
    return run.parts.denoiser.noised(batch.latents, noise, batch.positions)


def prior_loss(run: Run, prior: Batch, noised: Noised, conditions: StepConditions) -> Tensor:
    """What the model must not forget: class pictures, or its own untrained prediction of the class.

    Class pictures are DreamBooth's prior preservation (Ruiz et al. 2022, arXiv 2208.12242,
    eq. 2). The base's own prediction is learning without forgetting (Li and Hoiem 2016, arXiv
    1606.09282, eq. 2): on class pictures where there are some, else on the batch itself under the
    names of its classes. It asks for no noise, so it is 0 as long as nothing has changed.
    """
    parts, objective = run.parts, run.config.objective
    if objective.prior is Prior.PICTURES:
        return batch_errors(run, prior, conditions)[0].mean()
    if parts.prior_data is not None:
        noised = noised_of(run, prior)
    with torch.no_grad():
        base = run.conditions.of_base(prior.captions, conditions)
        target = parts.denoiser.predict(noised, base, prior.crops, adapted=False)
    output = parts.denoiser.predict(noised, conditions.of(prior.captions), prior.crops)
    return errors(output, target, noised, objective, is_flow=parts.denoiser.is_flow).mean()
