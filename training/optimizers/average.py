"""The moving average of what a run trains, kept by diffusers' EMAModel."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Average:
    """Exponential moving average of parameters (Polyak averaging), by the parameters' names.

    The decay grows from 0 to `decay` as (1 + n) / (10 + n) over the first n steps. Once a concept
    is frozen, its rows are their own average, because the adapters train on with those values.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float):
        try:
            from diffusers.training_utils import EMAModel
        except ImportError as missing:
            raise ImportError(
                "ema_decay needs diffusers, which is not installed: run pip install diffusers"
            ) from missing
        self._parameters = dict(parameters)
        self._model: Any = EMAModel(self._parameters.values(), decay=decay, foreach=True)
        # In bf16 a step of the average would be lost to rounding from a decay of 0.99 on.
        self._model.shadow_params = [shadow.float() for shadow in self._model.shadow_params]

    def step(self) -> None:
        """Add this step's parameters to the average."""
        self._model.step(self._parameters.values())

    def follow_frozen(self) -> None:
        """From now on, what no longer trains is its own average."""
        for name, shadow in self.tensors().items():
            if not self._parameters[name].requires_grad:
                shadow.copy_(self._parameters[name])

    @contextmanager
    def in_place(self) -> Generator[None, None, None]:
        """Let the parameters hold their averages until the context ends."""
        self._model.store(self._parameters.values())
        self._model.copy_to(self._parameters.values())
        try:
            yield
        finally:
            self._model.restore(self._parameters.values())

    @property
    def steps(self) -> int:
        """The number of steps that were averaged."""
        return self._model.optimization_step

    def tensors(self) -> dict[str, Tensor]:
        """The averages by the parameters' names."""
        return dict(zip(self._parameters, self._model.shadow_params, strict=True))

    def restore(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Resume from saved averages."""
        self._model.optimization_step = steps
        for name, shadow in self.tensors().items():
            shadow.copy_(tensors[name])
