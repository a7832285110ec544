"""The settings of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from .objective import ObjectiveConfig
from .optimizers.choices import EMBEDDING_OPTIMIZER, OptimizerConfig
from .optimizers.schedule import Schedule


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
    ema_decay: float = 0.0
    """Of the moving average that is the result instead of the last step's values; 0 is off."""

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
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}: use 0 (off), or up to 0.9999.")
