"""Whether a run has diverged, judged by the numbers of its steps."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

WINDOW = 20
EXPLODED = 20.0
"""The mean loss of the last steps may be this many times the run's usual loss"""


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why a run must stop."""

    sentence: str
    exploded: bool
    """Whether the run diverged step by step, so that its last state is useless too"""


class DivergenceCheck:
    """Checks the loss and the gradient norms of every step in turn."""

    def __init__(self) -> None:
        self._last = deque[float](maxlen=WINDOW)
        self._sum, self._count = 0.0, 0

    def complaint(self, step: int, loss: float, norms: Mapping[str, float]) -> Complaint | None:
        """Why the run must stop; None while all is well."""
        broken = [
            f"the gradient of the {part}" for part, n in norms.items() if not math.isfinite(n)
        ]
        if not math.isfinite(loss):
            broken.insert(0, "the loss")
        if broken:
            verb = "is" if len(broken) == 1 else "are"
            sentence = (
                f"Step {step}: {' and '.join(broken)} {verb} not a number any more: lower the "
                f"learning rate of {_whose(norms)}, or look at the images of this step."
            )
            return Complaint(sentence, exploded=False)
        if len(self._last) == WINDOW:
            self._sum, self._count = self._sum + self._last[0], self._count + 1
        self._last.append(loss)
        mean = sum(self._last) / len(self._last)
        usual = self._sum / max(self._count, 1)
        if self._count >= WINDOW and mean > EXPLODED * usual:
            sentence = (
                f"Step {step}: the loss has exploded to {mean:.3g}, from {usual:.3g} before: "
                f"lower the learning rate of {_whose(norms)}."
            )
            return Complaint(sentence, exploded=True)
        return None


def _broken(norms: Mapping[str, float]) -> list[str]:
    return [part for part, norm in norms.items() if not math.isfinite(norm)]


def _whose(norms: Mapping[str, float]) -> str:
    """Names of the optimizers whose gradients are not finite, or of all of them."""
    return " and ".join(f"the {part}" for part in _broken(norms) or norms)
