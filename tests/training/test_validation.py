"""Validation is the same every time, changes nothing, and its course decides what is kept."""

from __future__ import annotations

import pytest
import torch

from pack.training.config import TrainConfig
from pack.training.loop import train
from pack.training.objective import sample_errors
from pack.training.randomness import generator
from pack.training.validation import ALL, ValidationConfig, best_step, is_over, stalled, validate
from pack.training.words.concepts import Concept
from training.toys import CAPTIONS, same, toy_data, toy_parts, trained

CONCEPTS = (
    Concept(placeholder="TOK", initial="small dog", pivot=1.0),
    Concept(placeholder="snow", initial="cat", pivot=0.5),
)
HELD = ["a TOK at night", "snow on a hill", "TOK in snow", "a hill"]
CONFIG = TrainConfig(steps=4, seed=1)


def parts():
    made = toy_parts(*CONCEPTS)
    made.held_out = toy_data(HELD, CONCEPTS, key="held out")
    return made


def test_the_numbers_are_those_of_each_picture_at_its_noises():
    made = parts()
    steps = train(made, CONFIG)
    found = validate(next(steps).run, made.held_out, draws=3)
    losses = []
    for place, latent in enumerate(made.held_out.latents):
        noise = torch.randn((3, 4, 2, 2), generator=generator(1, "validation", place))
        times = torch.tensor([1 / 6, 3 / 6, 5 / 6], dtype=torch.float64)
        noised = made.denoiser.noised(latent.expand(3, 4, 2, 2), noise, times)
        caption = made.held_out.captions[place]
        with torch.no_grad():
            cond = made.text.encode([caption])[0]
            output = made.denoiser.predict(noised, [cond] * 3, [made.held_out.crops[place]] * 3)
        weight = noised.snr.clamp(max=5.0) * noised.gain.square()
        losses.append(sample_errors(output, noised.target, weight).mean().item())
    assert found[ALL] == pytest.approx(sum(losses) / 4)
    assert found["TOK"] == pytest.approx((losses[0] + losses[2]) / 2)
    assert found["snow"] == pytest.approx((losses[1] + losses[2]) / 2)


def test_validation_at_a_pivot_leaves_a_run_with_an_average_as_it_is():
    """The average of a concept that has just frozen is what it froze at."""
    config = TrainConfig(steps=6, seed=1, ema_decay=0.9)
    plain, tested = parts(), parts()
    tested.held_out = toy_data(list(CAPTIONS), CONCEPTS, key="held out")
    for _ in train(plain, config):
        pass
    for report in train(tested, config):
        validate(report.run, tested.held_out, draws=1)
    assert same(trained(plain), trained(tested))


def test_validation_repeats_bit_for_bit_and_changes_nothing_of_the_run():
    plain, tested, found = parts(), parts(), []
    for _ in train(plain, CONFIG):
        pass
    for report in train(tested, CONFIG):
        found.append([validate(report.run, tested.held_out, draws=2) for _ in range(2)])
    assert all(one == other for one, other in found)
    assert found[0][0] != found[-1][0]
    assert same(trained(plain), trained(tested))


def history(*losses: float, **concepts: list[float]):
    return [
        {"step": 10 * (i + 1), "losses": {ALL: loss, **{n: v[i] for n, v in concepts.items()}}}
        for i, loss in enumerate(losses)
    ]


def test_the_best_is_the_first_of_the_lowest():
    assert best_step([]) is None
    assert best_step(history(3.0, 1.0, 2.0, 1.0)) == 20


@pytest.mark.parametrize(("patience", "over"), [(0, False), (1, True), (2, True), (3, False)])
def test_patience_ends_a_run_without_progress(patience: int, over: bool):
    assert is_over(history(3.0, 1.0, 2.0, 1.0), patience) is over


def test_a_concept_stalls_by_its_own_pictures():
    course = history(3.0, 2.0, 1.0, TOK=[1.0, 2.0, 3.0], snow=[3.0, 2.0, 1.0])
    assert stalled(course, ["TOK", "snow"], 2) == ["TOK"]
    assert stalled(course, ["TOK", "snow"], 0) == []
    assert stalled(course, ["elsewhere"], 1) == []


@pytest.mark.parametrize("bad", [{"every": 0}, {"draws": 0}, {"patience": -1}])
def test_settings_that_cannot_be_are_refused_by_name(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        ValidationConfig(**bad)
