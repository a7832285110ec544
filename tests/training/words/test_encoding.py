"""What the text encoder is asked in a step: each distinct caption once, in one call."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from training.toys import CAPTIONS, ToyText, losses, toy_parts

from pack.training.config import TrainConfig
from pack.training.objective import ObjectiveConfig, Prior
from pack.training.ports import Caption, Conditioning
from pack.training.words.concepts import Concept

TOK = Concept(placeholder="TOK", initial="small dog", pivot=1.0)


class CountingText(ToyText):
    """Keeps the captions of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[Caption]] = []

    def encode(self, captions: Sequence[Caption]) -> list[Conditioning]:
        self.calls.append(list(captions))
        return super().encode(captions)


@pytest.mark.parametrize("prior", [Prior.NONE, Prior.BASE])
def test_a_step_of_many_micro_steps_calls_the_encoder_once(prior: Prior):
    """The captions that cannot move are encoded in the first step and never again."""
    parts = toy_parts(TOK, captions=CAPTIONS)
    parts.text = text = CountingText()
    objective = ObjectiveConfig(prior=prior)
    losses(parts, TrainConfig(steps=3, accumulation=4, objective=objective))
    moving = [call for call in text.calls if any(not isinstance(p, str) for c in call for p in c)]
    constant = [caption for call in text.calls if call not in moving for caption in call]
    assert len(moving) == 3
    assert all(len(call) == len(set(call)) == 3 for call in moving)
    assert len(constant) == len(set(constant))
