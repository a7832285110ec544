"""A run that was stopped and goes on is, bit for bit, the run that was not stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pack.training.config import TrainConfig
from pack.training.loop import train
from pack.training.objective import ObjectiveConfig, Prior
from pack.training.optimizers.choices import Algorithm, OptimizerConfig
from pack.training.optimizers.schedule import Schedule
from pack.training.state import RunState, load_state, save_state
from pack.training.words.concepts import Concept
from training.toys import losses, same, toy_parts, trained

STEPS = 8
CONCEPTS = (
    Concept(placeholder="TOK", initial="small dog", pivot=0.5),
    Concept(placeholder="snow", initial="cat", pivot=0.75),
)


def config(algorithm: Algorithm) -> TrainConfig:
    """Everything that has a memory: schedule, accumulation, dropout, prior, both optimizers."""
    optimizer = OptimizerConfig(algorithm=algorithm, learning_rate=0.02)
    return TrainConfig(
        steps=STEPS,
        accumulation=2,
        seed=3,
        schedule=Schedule.COSINE,
        warmup_steps=2,
        optimizer=optimizer,
        embedding_optimizer=optimizer,
        objective=ObjectiveConfig(prior=Prior.BASE, caption_dropout=0.2, noise_offset=0.1),
    )


def stopped_after(step: int, settings: TrainConfig, path: Path) -> RunState:
    """Train `step` steps of new parts and give what a file keeps of them."""
    run = train(toy_parts(*CONCEPTS), settings)
    for report in run:
        if report.step + 1 == step:
            save_state(path, report.state())
            break
    run.close()
    return load_state(path)


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_run_continues_bit_for_bit(algorithm: Algorithm, step: int, tmp_path: Path):
    """Also at the pivots, which are steps 4 and 6."""
    settings, whole, rest = config(algorithm), toy_parts(*CONCEPTS), toy_parts(*CONCEPTS, seed=0)
    all_losses = losses(whole, settings)
    state = stopped_after(step, settings, tmp_path / "checkpoint.safetensors")
    for parameter in rest.parameters().values():
        parameter.data.fill_(7.0)
    later = [report.loss.item() for report in train(rest, settings, state)]
    assert later == all_losses[step:]
    assert same(trained(rest), trained(whole))


def test_a_state_is_a_copy_that_later_steps_do_not_change():
    run = train(toy_parts(*CONCEPTS), config(Algorithm.ADAMW))
    state = next(run).state()
    kept = {name: tensor.clone() for name, tensor in state.tensors.items()}
    next(run)
    run.close()
    assert same(dict(state.tensors), kept)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path):
    state = stopped_after(2, config(Algorithm.ADAMW), tmp_path / "checkpoint.safetensors")
    other = toy_parts(Concept(placeholder="TOK", name="other"))
    with pytest.raises(ValueError, match="does not fit"):
        next(train(other, config(Algorithm.ADAMW), state))


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path):
    from safetensors.torch import save_file

    path = tmp_path / "checkpoint.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_state(path)
