"""Numbers on their way from the device, which never waits for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(slots=True)
class _Letter:
    about: Any
    numbers: dict[str, Tensor]
    arrived: torch.cuda.Event | None


class Mailbox:
    """Takes small tensors and gives them back on the CPU, in order, once they have come.

    On CUDA the copy goes into pinned memory while the device works on, and only an event says
    when it has come; elsewhere a copy is all there is to do.
    """

    def __init__(self) -> None:
        self._letters = deque[_Letter]()

    def post(self, about: Any, tensors: Mapping[str, Tensor]) -> None:
        """Send tensors on their way with a note of what they are."""
        arrived, numbers = None, dict[str, Tensor]()
        for name, tensor in tensors.items():
            if tensor.device.type == "cuda":
                numbers[name] = torch.empty_like(tensor, device="cpu", pin_memory=True)
                numbers[name].copy_(tensor.detach(), non_blocking=True)
                arrived = torch.cuda.Event()
            else:
                numbers[name] = tensor.detach().to("cpu", copy=True)
        if arrived is not None:
            arrived.record()
        self._letters.append(_Letter(about, numbers, arrived))

    def arrived(self, *, wait: bool = False) -> list[tuple[Any, dict[str, Tensor]]]:
        """All that has come since the last call; with `wait`, all that is on its way."""
        found: list[tuple[Any, dict[str, Tensor]]] = []
        while self._letters:
            letter = self._letters[0]
            if letter.arrived is not None and not letter.arrived.query():
                if not wait:
                    break
                letter.arrived.synchronize()
            found.append((letter.about, letter.numbers))
            self._letters.popleft()
        return found
