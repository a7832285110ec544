"""The optimizers on offer, their proven defaults, and what they need around a step."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from .rounding import in_fp32


class Algorithm(str, Enum):
    """Optimizers that users can choose."""

    ADAMW = "AdamW"
    PRODIGY = "Prodigy"
    SCHEDULE_FREE = "AdamW Schedule-Free"
    ADAMW_8BIT = "AdamW 8-bit"
    ADAFACTOR = "Adafactor"


class Precision(str, Enum):
    """The dtype that parameters are stored in."""

    FP32 = "fp32"
    BF16 = "bf16 with stochastic rounding"


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """How a group of trained things is updated."""

    algorithm: Algorithm = Algorithm.ADAMW
    learning_rate: float = 0.0
    """0 means the proven default; see `rate`."""
    weight_decay: float = 0.01
    d_coef: float = 1.0
    """Prodigy only: factor on its estimate of the step size."""
    growth_rate: float = 0.0
    """Prodigy only: largest factor by which the estimate may grow in a step; 0 is no limit."""
    precision: Precision = Precision.FP32

    def __post_init__(self) -> None:
        if self.learning_rate < 0:
            raise ValueError(f"learning_rate is {self.learning_rate}: use 0 (default) or more.")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay is {self.weight_decay}: use 0 or more.")
        if self.d_coef <= 0:
            raise ValueError(f"d_coef is {self.d_coef}: use more than 0.")

        if self.growth_rate != 0 and self.growth_rate <= 1:
            raise ValueError(f"growth_rate is {self.growth_rate}: use 0 (no limit) or more than 1.")

    def rate(self, default: float) -> float:
        """The rate that is set; else 1 for Prodigy, which finds its own, or the default."""
        if self.learning_rate:
            return self.learning_rate
        return 1.0 if self.algorithm is Algorithm.PRODIGY else default


EMBEDDING_OPTIMIZER = OptimizerConfig(weight_decay=0.0)
"""For concepts by default: without decay to zero, since their norms are pulled elsewhere."""

Groups = Mapping[str, list[nn.Parameter]]
"""The parameters of an optimizer by the names of their groups."""


def make_optimizer(
    config: OptimizerConfig, groups: Groups, default_rate: float
) -> torch.optim.Optimizer:
    """An optimizer with a group for each named list; a group holds its own rate under "rate".

    The parameters are cast in place to the precision of the configuration.
    """
    rate = config.rate(default_rate)
    named = [
        {"name": name, "params": parameters, "rate": rate} for name, parameters in groups.items()
    ]
    if config.precision is Precision.BF16:
        for parameter in (p for parameters in groups.values() for p in parameters):
            parameter.data = parameter.data.to(torch.bfloat16)
    fused = {"fused": True} if _can_fuse(config, groups) else {}
    made = optimizer_class(config.algorithm)(named, lr=rate, **settings(config), **fused)
    to_training(made)
    return made


def _can_fuse(config: OptimizerConfig, groups: Groups) -> bool:
    """Whether torch has a single kernel for the update on the parameters' device."""
    devices = {p.device.type for parameters in groups.values() for p in parameters}
    plain = config.algorithm is Algorithm.ADAMW and config.precision is not Precision.BF16
    return plain and len(devices) == 1 and devices <= {"cpu", "cuda", "xpu"}


def settings(config: OptimizerConfig) -> dict[str, Any]:
    """Arguments for the class of the algorithm.

    Prodigy (Mishchenko and Defazio 2023, arXiv 2306.06101) as set for diffusion; Adafactor
    (Shazeer and Stern 2018, arXiv 1804.04235) with a rate from outside, as trainers of LoRA use it.
    """
    common = {"weight_decay": config.weight_decay}
    if config.algorithm is Algorithm.ADAFACTOR:
        return {**common, "scale_parameter": False, "relative_step": False}
    if config.algorithm is Algorithm.PRODIGY:
        return {
            **common,
            "betas": (0.9, 0.99),
            "decouple": True,
            "use_bias_correction": True,
            "safeguard_warmup": True,
            "d_coef": config.d_coef,
            "growth_rate": config.growth_rate or math.inf,
        }
    return common


PACKAGES = {
    Algorithm.PRODIGY: ("prodigyopt", "Prodigy"),
    Algorithm.SCHEDULE_FREE: ("schedulefree", "AdamWScheduleFree"),
    Algorithm.ADAMW_8BIT: ("bitsandbytes", "optim.AdamW8bit"),
    Algorithm.ADAFACTOR: ("transformers", "optimization.Adafactor"),
}
"""Package and class of the algorithms that torch does not have."""


def optimizer_class(algorithm: Algorithm) -> Callable[..., torch.optim.Optimizer]:
    """The algorithm's class; ImportError with the line to run when its package is missing."""
    if algorithm is Algorithm.ADAMW:
        return torch.optim.AdamW
    package, path = PACKAGES[algorithm]
    module, _, name = f"{package}.{path}".rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as missing:
        raise ImportError(
            f"{algorithm.value} is not installed: run pip install {package}"
        ) from missing


def check_installed(config: OptimizerConfig) -> None:
    """Raise ImportError with the line to run when the algorithm's package is missing."""
    optimizer_class(config.algorithm)


def shift_origin(optimizer: torch.optim.Optimizer, shifts: Mapping[nn.Parameter, Tensor]) -> None:
    """Account for changes to parameters that the optimizer did not make.

    Prodigy estimates its step size from the distance to the starting point, which must not
    include the norm pull; else d grows ten-thousandfold in a few steps when norms are far off.
    """
    for parameter, shift in shifts.items():
        origin = optimizer.state[parameter].get("p0")
        if origin is not None:
            origin.add_(shift.flatten())
        # Schedule-Free derives its average from the parameter and this.
        fast = optimizer.state[parameter].get("z")
        if fast is not None:
            fast.add_(shift)


def drop_group(optimizer: torch.optim.Optimizer, name: str) -> None:
    """Remove a named group and its state, so that no later step can move its parameters.

    A learning rate of 0 does not stop Prodigy, which derives one step size from all groups and
    applies its momentum with it.
    """
    (group,) = [group for group in optimizer.param_groups if group["name"] == name]
    take_average(optimizer, [group])
    optimizer.param_groups.remove(group)
    for parameter in group["params"]:
        optimizer.state.pop(parameter, None)
        parameter.grad = None


@contextmanager
def updates(
    optimizer: torch.optim.Optimizer, rng_on: Callable[[torch.device], torch.Generator]
) -> Generator[None, None, None]:
    """Whatever moves parameters goes inside: those in bf16 are in fp32 meanwhile.

    Parameters of text encoders can be on another device than those of the denoiser.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    rounded = [p for p in parameters if p.dtype is torch.bfloat16]
    with ExitStack() as stack:
        for device in dict.fromkeys(p.device for p in rounded):
            here = [p for p in rounded if p.device == device]
            stack.enter_context(in_fp32(here, rng_on(device)))
        yield


def to_training(optimizer: torch.optim.Optimizer) -> None:
    """Put Schedule-Free's parameters where it takes gradients; no other optimizer moves them."""
    if hasattr(optimizer, "train"):
        optimizer.train()  # pyright: ignore


@torch.no_grad()
def take_average(
    optimizer: torch.optim.Optimizer, groups: Sequence[dict[str, Any]] | None = None
) -> None:
    """Leave Schedule-Free's average in the parameters, which is its result, not the last point.

    Defazio et al. 2024 (arXiv 2405.15682): x from y = (1 - beta) z + beta x.
    """
    for group in groups or optimizer.param_groups:
        if not group.get("train_mode"):
            continue
        for parameter in group["params"]:
            fast = optimizer.state[parameter].get("z")
            if fast is not None:
                average = torch.lerp(fast, parameter.data.to(fast), 1 / group["betas"][0])
                parameter.data = average.to(parameter.dtype)
        group["train_mode"] = False


@contextmanager
def averaged(optimizers: Sequence[torch.optim.Optimizer]) -> Generator[None, None, None]:
    """Parameters hold the result so far inside; afterwards training continues bit for bit."""
    groups = [g for o in optimizers for g in o.param_groups if g.get("train_mode")]
    kept = [(p, p.data.clone()) for group in groups for p in group["params"]]
    for optimizer in optimizers:
        take_average(optimizer)
    try:
        yield
    finally:
        for parameter, values in kept:
            parameter.data = values
        for group in groups:
            group["train_mode"] = True
