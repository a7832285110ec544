"""Every setting that cannot be used is refused by its name and value."""

from __future__ import annotations

import pytest

from pack.training.adapters.lora import LoraConfig
from pack.training.config import TrainConfig
from pack.training.objective import ObjectiveConfig
from pack.training.optimizers.choices import OptimizerConfig
from pack.training.words.concepts import Concept


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(steps=0), "steps is 0: use at least 1"),
        (lambda: TrainConfig(steps=5, batch_size=0), "batch_size is 0"),
        (lambda: TrainConfig(steps=5, accumulation=-1), "accumulation is -1"),
        (lambda: TrainConfig(steps=5, warmup_steps=5), "warmup_steps is 5: use 0 to 4"),
        (lambda: TrainConfig(steps=5, warmup_steps=-1), "warmup_steps is -1"),
        (lambda: TrainConfig(steps=5, max_grad_norm=0.0), "max_grad_norm is 0.0"),
        (lambda: TrainConfig(steps=5, norm_pull=-0.1), "norm_pull is -0.1: use 0 to 1"),
        (lambda: TrainConfig(steps=5, norm_pull=1.5), "norm_pull is 1.5"),
        (lambda: ObjectiveConfig(min_snr_gamma=-1.0), "min_snr_gamma is -1.0"),
        (lambda: ObjectiveConfig(prior_batch=-1), "prior_batch is -1"),
        (lambda: ObjectiveConfig(noise_offset=-0.1), "noise_offset is -0.1"),
        (lambda: ObjectiveConfig(caption_dropout=1.1), "caption_dropout is 1.1: use 0 to 1"),
        (lambda: ObjectiveConfig(caption_dropout=-0.1), "caption_dropout is -0.1"),
        (lambda: ObjectiveConfig(prior_weight=-1.0), "prior_weight is -1.0"),
        (lambda: OptimizerConfig(learning_rate=-1.0), "learning_rate is -1.0"),
        (lambda: OptimizerConfig(weight_decay=-1.0), "weight_decay is -1.0"),
        (lambda: OptimizerConfig(d_coef=0.0), "d_coef is 0.0"),
        (lambda: LoraConfig(rank=0), "rank is 0: use at least 1"),
        (lambda: LoraConfig(alpha=0.0), "alpha is 0.0"),
        (lambda: Concept(placeholder=""), "has no placeholder"),
        (lambda: Concept(placeholder="  "), "has no placeholder"),
        (lambda: Concept(placeholder="TOK "), 'placeholder "TOK " has blanks'),
        (lambda: Concept(placeholder="TOK", vectors=0), "vectors of TOK is 0"),
        (lambda: Concept(placeholder="TOK", pivot=1.5), "pivot of TOK is 1.5: use 0 to 1"),
        (lambda: Concept(placeholder="TOK", pivot=-0.5), "pivot of TOK is -0.5"),
        (lambda: Concept(placeholder="TOK", pivot=float("nan")), "pivot of TOK is nan"),
    ],
)
def test_a_bad_value_is_named_with_its_field(make, message: str):
    with pytest.raises(ValueError) as caught:
        make()
    assert message in str(caught.value)


def test_the_ends_of_every_range_are_allowed():
    TrainConfig(steps=1, warmup_steps=0, norm_pull=1.0)
    TrainConfig(steps=5, warmup_steps=4, norm_pull=0.0)
    ObjectiveConfig(min_snr_gamma=0.0, caption_dropout=1.0, prior_weight=0.0)
    OptimizerConfig(learning_rate=0.0, weight_decay=0.0)
    Concept(placeholder="TOK", vectors=1, pivot=0.0)
    Concept(placeholder="TOK", pivot=1.0)
