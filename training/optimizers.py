"""One optimizer per part of the training: the choices and their proven defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn


class Algorithm(str, Enum):
    """Optimizers on offer."""

    ADAMW = "AdamW"
    PRODIGY = "Prodigy"


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """How one part is updated."""

    algorithm: Algorithm = Algorithm.ADAMW
    learning_rate: float = 0.0
    """0 takes the proven one of the part: see `rate`."""
    weight_decay: float = 0.01
    d_coef: float = 1.0
    """Prodigy only: factor on its estimate of the step size."""

    def __post_init__(self) -> None:
        if self.learning_rate < 0:
            raise ValueError(f"learning_rate is {self.learning_rate}: use 0 (default) or more.")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay is {self.weight_decay}: use 0 or more.")
        if self.d_coef <= 0:
            raise ValueError(f"d_coef is {self.d_coef}: use more than 0.")

    def rate(self, default: float) -> float:
        """The rate as set, or 1 for Prodigy, which finds its own, or the part's default."""
        if self.learning_rate:
            return self.learning_rate
        return 1.0 if self.algorithm is Algorithm.PRODIGY else default


EMBEDDING_OPTIMIZER = OptimizerConfig(weight_decay=0.0)
"""Of the concepts, unless another is chosen: their norms are pulled already, and not to zero."""

ADAPTER_RATE = 1e-4
EMBEDDING_RATE = 1e-3

Parts = Mapping[str, list[nn.Parameter]]


def make_optimizer(
    config: OptimizerConfig, parts: Parts, default_rate: float
) -> torch.optim.Optimizer:
    """An optimizer with one group per named part; each group carries its base rate as "rate"."""
    rate = config.rate(default_rate)
    groups = [
        {"name": name, "params": parameters, "rate": rate} for name, parameters in parts.items()
    ]
    if config.algorithm is Algorithm.PRODIGY:
        return _prodigy(groups, rate, config)
    return torch.optim.AdamW(groups, lr=rate, weight_decay=config.weight_decay)


def check_installed(config: OptimizerConfig) -> None:
    """Raise ImportError with the line to run when the algorithm's package is missing."""
    if config.algorithm is Algorithm.PRODIGY:
        _prodigy_class()


def _prodigy_class() -> Callable[..., torch.optim.Optimizer]:
    try:
        from prodigyopt import Prodigy  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as missing:
        raise ImportError("Prodigy is not installed: run pip install prodigyopt") from missing
    return Prodigy


def _prodigy(
    groups: list[dict[str, Any]], rate: float, config: OptimizerConfig
) -> torch.optim.Optimizer:
    """Prodigy (Mishchenko and Defazio 2023, arXiv 2306.06101) as set for diffusion."""
    return _prodigy_class()(
        groups,
        lr=rate,
        betas=(0.9, 0.99),
        weight_decay=config.weight_decay,
        decouple=True,
        use_bias_correction=True,
        safeguard_warmup=True,
        d_coef=config.d_coef,
    )


def shift_origin(optimizer: torch.optim.Optimizer, shifts: Mapping[nn.Parameter, Tensor]) -> None:
    """Tell Prodigy that parameters were moved by other hands than its own.

    It estimates its step size from the way gone since the start, which the norm pull is no
    part of; without this, d grows ten-thousandfold in a few steps where norms are far off.
    """
    for parameter, shift in shifts.items():
        origin = optimizer.state[parameter].get("p0")
        if origin is not None:
            origin.add_(shift.flatten())


def drop_group(optimizer: torch.optim.Optimizer, name: str) -> None:
    """Take a named group and its state out, so that no later step can move its parameters.

    A learning rate of 0 does not stop Prodigy: it derives one step size from all groups and
    applies the kept momentum with it.
    """
    (group,) = [group for group in optimizer.param_groups if group["name"] == name]
    optimizer.param_groups.remove(group)
    for parameter in group["params"]:
        optimizer.state.pop(parameter, None)
        parameter.grad = None
