"""One micro step: what is drawn for it, and the losses of its pictures and of its prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .data import Batch, MicroStep, draw_batch
from .objective import Prior, offset_noise, sample_errors, sample_weights, weighted_loss
from .ports import Caption, Noised
from .words.concepts import class_caption, negative_captions
from .words.conditions import StepConditions

if TYPE_CHECKING:
    from .run import Run


def draw(run: Run, micro_step: int) -> MicroStep:
    """What a micro step is made of, a pure function of the seed and its number."""
    parts, seed, objective = run.parts, run.config.seed, run.config.objective
    batch = draw_batch(parts.data, seed, micro_step, objective.caption_dropout, objective)
    return MicroStep(
        batch, draw_prior(run, batch, micro_step), negative_captions(batch.captions, run.live)
    )


def draw_prior(run: Run, batch: Batch, micro_step: int) -> Batch | None:
    """The class pictures beside a batch, or the batch's own with the names of their classes."""
    parts, objective = run.parts, run.config.objective
    if objective.prior is Prior.NONE:
        return None
    if parts.prior_data is not None:
        return draw_batch(parts.prior_data, run.config.seed + 1, micro_step, 0.0, objective)
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
    weights = sample_weights(noised, objective, is_flow=denoiser.is_flow)
    return sample_errors(output, noised.target, weights, batch.mask, objective.huber), noised


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
    parts = run.parts
    if run.config.objective.prior is Prior.PICTURES:
        return batch_errors(run, prior, conditions)[0].mean()
    if parts.prior_data is not None:
        noised = noised_of(run, prior)
    with torch.no_grad():
        base = run.conditions.of_base(prior.captions, conditions)
        target = parts.denoiser.predict(noised, base, prior.crops, adapted=False)
    output = parts.denoiser.predict(noised, conditions.of(prior.captions), prior.crops)
    weights = sample_weights(noised, run.config.objective, is_flow=parts.denoiser.is_flow)
    return weighted_loss(output, target, weights, huber=run.config.objective.huber)
