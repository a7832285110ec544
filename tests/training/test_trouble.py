"""Short memory, numbers that are none and losses that explode."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pack.training.config import TrainConfig
from pack.training.loop import train
from pack.training.objective import ObjectiveConfig, Prior
from pack.training.run import clear_broken
from pack.training.state import load_state, save_state
from pack.training.trouble import EXPLODED, WINDOW, DivergenceCheck
from pack.training.words.concepts import Concept
from training.toys import ToyDenoiser, same, toy_data, toy_parts, trained

CONCEPTS = (Concept(placeholder="TOK", initial="small dog", pivot=0.5),)
PRIORS = [Prior.NONE, Prior.BASE, Prior.PICTURES]


def config(prior: Prior = Prior.NONE, **settings) -> TrainConfig:
    return TrainConfig(steps=6, seed=2, objective=ObjectiveConfig(prior=prior), **settings)


def parts(prior: Prior = Prior.NONE):
    pictures = toy_data(["a dog", "dogs", "a cat"], seed=1, key="class")
    return toy_parts(*CONCEPTS, prior=pictures if prior is Prior.PICTURES else None)


def out_of_memory_at(monkeypatch: pytest.MonkeyPatch, calls: set[int]) -> None:
    """Raise the allocator's error in these calls of the denoiser, counted from 1."""
    predict, seen = ToyDenoiser.predict, iter(range(1, 10_000))

    def short(self, *arguments, **settings):
        if next(seen) in calls:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        return predict(self, *arguments, **settings)

    monkeypatch.setattr(ToyDenoiser, "predict", short)


@pytest.mark.parametrize("prior", PRIORS)
def test_out_of_memory_is_answered_picture_by_picture_with_the_same_result(prior, monkeypatch):
    plain = parts(prior)
    for _ in train(plain, config(prior)):
        pass
    out_of_memory_at(monkeypatch, {3})
    short = parts(prior)
    reports = [(r.run.split, len(short.denoiser.predictions)) for r in train(short, config(prior))]
    assert [split for split, _ in reports].count(True) >= 4
    assert short.denoiser.saves_memory
    assert max(len(p.output) for p in short.denoiser.predictions[-4:]) == 1
    for name, value in trained(short).items():
        torch.testing.assert_close(value, trained(plain)[name], rtol=2e-4, atol=1e-6)


def test_gradients_on_two_devices_are_cleared_where_they_are():
    """As when the CLIP stays on the CPU while the model trains on a GPU."""
    with FakeTensorMode():
        grads = [torch.ones(3, device=device) for device in ("cuda", "cpu")]
        clear_broken(grads, torch.ones((), device="cuda"))
        assert [grad.device.type for grad in grads] == ["cuda", "cpu"]


def test_a_second_time_in_the_same_step_ends_the_run(monkeypatch):
    out_of_memory_at(monkeypatch, {2, 3})
    run = train(parts(), config())
    next(run)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        next(run)


def test_a_run_that_was_short_of_memory_stays_careful_after_a_break(monkeypatch, tmp_path: Path):
    out_of_memory_at(monkeypatch, {2})
    whole, path = parts(), tmp_path / "state.safetensors"
    for report in train(whole, config()):
        if report.step == 3:
            save_state(path, report.state())
    rest = parts()
    for report in train(rest, config(), load_state(path)):
        assert report.run.split
    assert same(trained(rest), trained(whole))


def test_a_gradient_that_is_no_number_leaves_the_parameters_whole(monkeypatch):
    guess, calls = ToyDenoiser.guess, iter(range(1, 10_000))

    def broken(self, x, cond, adapted):
        made = guess(self, x, cond, adapted)
        return made * math.nan if next(calls) == 5 else made

    monkeypatch.setattr(ToyDenoiser, "guess", broken)
    hurt, seen = parts(), []
    for report in train(hurt, config()):
        seen.append((report.loss.item(), report.norms["adapters"].item()))
        assert all(value.isfinite().all() for value in trained(hurt).values())
    assert [math.isnan(loss) for loss, _ in seen] == [False, False, True, False, False, False]
    assert math.isnan(seen[2][1])


def test_the_complaint_says_which_part():
    sentence = (
        DivergenceCheck().complaint(7, 0.1, {"adapters": math.nan, "embeddings": 0.2}).sentence
    )
    assert sentence.startswith("Step 7: the gradient of the adapters is not a number any more")
    assert "embeddings" not in sentence
    both = DivergenceCheck().complaint(3, math.inf, {"adapters": math.inf, "embeddings": math.nan})
    assert "the loss and the gradient of the adapters and the gradient of the emb" in both.sentence
    assert not both.exploded


def test_a_loss_that_stays_far_above_what_was_usual_has_exploded():
    check = DivergenceCheck()
    for step in range(10 * WINDOW):
        # Single steps of a diffusion loss differ by a lot.
        assert check.complaint(step, 5.0 if step % 10 == 0 else 0.05, {"adapters": 1.0}) is None
    found = [check.complaint(step, 0.5 * EXPLODED * 2, {"adapters": 1.0}) for step in range(WINDOW)]
    complaint = next(one for one in found if one)
    assert complaint.exploded and "exploded" in complaint.sentence
