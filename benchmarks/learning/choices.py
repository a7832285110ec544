"""Optimizers, objectives and negative embeddings, each learning the character like `pivotal`."""

from __future__ import annotations

from collections.abc import Mapping

from pack.training.objective import ObjectiveConfig, Weighting
from pack.training.optimizers.choices import Algorithm, Precision
from pack.training.optimizers.schedule import Schedule
from pack.training.timesteps import Density

from .cells import Cell
from .methods import METHODS, Method
from .subjects import SCATTERED

LEARNED = 0.9
"""Fidelity from which a concept counts as learned."""
EARLY = 0.25
"""Share of the steps after which the character is half learned, where methods can differ."""


OPTIMIZERS: Mapping[str, Method] = {
    # Prodigy's rate is 1, and Schedule-Free needs no schedule: so their authors.
    "prodigy": Method(algorithm=Algorithm.PRODIGY, adapter_rate=1.0, embedding_rate=1.0),
    "schedule_free": Method(algorithm=Algorithm.SCHEDULE_FREE, schedule=Schedule.CONSTANT),
    "adamw_8bit": Method(algorithm=Algorithm.ADAMW_8BIT),
    "adafactor": Method(algorithm=Algorithm.ADAFACTOR),
    "bf16_factors": Method(precision=Precision.BF16),
    "moving_average": Method(ema_decay=0.98),
}
OBJECTIVES: Mapping[str, Method] = {
    "no_weighting": Method(objective=ObjectiveConfig(weighting=Weighting.NONE)),
    "debiased": Method(objective=ObjectiveConfig(weighting=Weighting.DEBIASED)),
    "huber": Method(objective=ObjectiveConfig(huber=0.1)),
    "noise_offset": Method(objective=ObjectiveConfig(noise_offset=0.05)),
    "caption_dropout": Method(objective=ObjectiveConfig(caption_dropout=0.1)),
}
FLOWS: Mapping[str, Method] = {
    "flow_uniform": Method(flow=True),
    "flow_logit_normal": Method(flow=True, objective=ObjectiveConfig(density=Density.LOGIT_NORMAL)),
    "flow_mode": Method(flow=True, objective=ObjectiveConfig(density=Density.MODE)),
    "flow_shift": Method(flow=True, objective=ObjectiveConfig(shift=3.0)),
    "flow_huber": Method(flow=True, objective=ObjectiveConfig(huber=0.1)),
}
NEGATIVES: Mapping[str, Method] = {
    "negative": Method(negative_vectors=2, objective=ObjectiveConfig(negative_guidance=3.0)),
}
"""Trained at the guidance that the samples have."""

CHOICES: Mapping[str, Method] = {**OPTIMIZERS, **OBJECTIVES, **FLOWS, **NEGATIVES}
HASTY = ("pivotal", "lora", "pivotal_noise", *NEGATIVES)
"""Methods that are compared early."""
METHODS.update(CHOICES)


def choice_cells() -> list[Cell]:
    """Every choice at the budget; without weighting on all seeds, since it was seen to matter."""
    cells = [Cell(subject=SCATTERED, method=name, seed=0) for name in CHOICES]
    return cells + [Cell(subject=SCATTERED, method="no_weighting", seed=seed) for seed in (1, 2)]


def early_cells() -> list[Cell]:
    """What is compared when the character is half learned."""
    return [
        Cell(subject="character", method=name, seed=seed, budget=EARLY)
        for name in HASTY
        for seed in (0, 1, 2)
    ]
