"""The layers of a host model that an adapter may change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from ....training.ports import Convolution, Layer
from .frozen_layers import PROJECTIONS, lend_weight, weight_of

# Files of SD1.x lack this weight, so the host leaves it uninitialized; sampling never uses it.
_NOT_LOADED = "text_projection"


def adaptable_layers(root: nn.Module, ready: Callable[[], None]) -> list[Layer]:
    """Every Linear and convolution under `root` by its dotted name.

    `ready` is called before a weight is read: another clone may have left its patches on it.
    """
    return [
        Layer(
            name=name,
            shape=tuple(module.weight.shape),
            weight=partial(_weight, module, ready),
            conv=_convolution(module),
            lend=partial(_lend, module, ready),
        )
        for name, module in root.named_modules()
        if isinstance(module, PROJECTIONS)
        and not name.endswith(_NOT_LOADED)
        and getattr(module, "padding_mode", "zeros") == "zeros"
    ]


def _convolution(module: Any) -> Convolution | None:
    if isinstance(module, nn.Linear):
        return None
    return Convolution(
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        groups=module.groups,
    )


def _weight(module: nn.Module, ready: Callable[[], None]) -> Tensor:
    ready()
    return weight_of(module)


@contextmanager
def _lend(
    module: nn.Module, ready: Callable[[], None], like: Tensor
) -> Iterator[tuple[Tensor, Tensor | None]]:
    ready()
    with lend_weight(module, like) as weights:
        yield weights
