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
    events: list[torch.cuda.Event]


class Mailbox:
    """Takes small tensors and gives them back on the CPU, in order, once they have come.

    On CUDA the copy goes into pinned memory while the device works on, and only an event says
    when it has come; elsewhere a copy is all there is to do.
    """

    def __init__(self) -> None:
        self._letters = deque[_Letter]()

    def post(self, about: Any, tensors: Mapping[str, Tensor]) -> None:
        """Send tensors on their way with a note of what they are."""
        numbers, places = dict[str, Tensor](), set[torch.device]()
        for name, tensor in tensors.items():
            if tensor.device.type == "cuda":
                numbers[name] = torch.empty_like(tensor, device="cpu", pin_memory=True)
                numbers[name].copy_(tensor.detach(), non_blocking=True)
                places.add(tensor.device)
            else:
                numbers[name] = tensor.detach().to("cpu", copy=True)
        # Each device tells of its own copies, also one that is not the current one.
        events = {place: torch.cuda.Event() for place in places}
        for place, event in events.items():
            event.record(torch.cuda.current_stream(place))
        self._letters.append(_Letter(about, numbers, list(events.values())))

    def arrived(self, *, wait: bool = False) -> list[tuple[Any, dict[str, Tensor]]]:
        """All that has come since the last call; with `wait`, all that is on its way."""
        found: list[tuple[Any, dict[str, Tensor]]] = []
        while self._letters:
            letter = self._letters[0]
            if not wait and not all(event.query() for event in letter.events):
                break
            for event in letter.events:
                event.synchronize()
            found.append((letter.about, letter.numbers))
            self._letters.popleft()
        return found
