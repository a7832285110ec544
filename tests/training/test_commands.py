"""What a run is asked while it trains is done before its next step, and stays done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pack.training.commands import Finish, Pivot, to_freeze
from pack.training.config import TrainConfig
from pack.training.loop import train
from pack.training.optimizers.average import Average
from pack.training.state import load_state, save_state
from pack.training.words.concepts import Concept
from training.toys import of_concept, same, toy_parts, trained

CONCEPTS = (
    Concept(placeholder="TOK", initial="small dog", pivot=1.0),
    Concept(placeholder="snow", initial="cat", pivot=0.75),
)
CONFIG = TrainConfig(steps=8, seed=3)


def driven(parts, config, asked, start=None):
    """Run to the end, sending `asked[step]` after that many steps; the reports."""
    run, commands, reports = train(parts, config, start), None, []
    while True:
        try:
            report = run.send(commands)
        except StopIteration:
            return reports
        reports.append((report.step + 1, trained(parts), report))
        commands = asked.get(report.step + 1)


def test_finish_ends_the_loop_after_the_step():
    parts = toy_parts(*CONCEPTS)
    reports = driven(parts, CONFIG, {3: [Finish()]})
    assert [step for step, *_ in reports] == [1, 2, 3]
    assert parts.denoiser.attached == 0
    assert same(trained(parts), reports[-1][1])


def test_a_concept_freezes_from_the_step_that_is_asked_for():
    reports = driven(toy_parts(*CONCEPTS), CONFIG, {3: [Pivot("TOK")]})
    states = [of_concept(state, "TOK") for _, state, _ in reports]
    assert not same(states[1], states[2])
    assert all(same(state, states[2]) for state in states[2:])
    assert not same(of_concept(reports[2][1], "snow"), of_concept(reports[-1][1], "snow"))


def test_a_pivot_of_a_concept_that_is_frozen_or_unknown_changes_nothing():
    plain = driven(toy_parts(*CONCEPTS), CONFIG, {})[-1][1]
    asked = driven(toy_parts(*CONCEPTS), CONFIG, {7: [Pivot("snow"), Pivot("nobody")]})[-1][1]
    assert same(plain, asked)


@pytest.mark.parametrize("kept_at", [3, 4, 6])
def test_a_pivot_that_was_asked_for_outlives_a_break(kept_at: int, tmp_path: Path):
    asked, path = {3: [Pivot("TOK")]}, tmp_path / "state.safetensors"
    whole = driven(toy_parts(*CONCEPTS), CONFIG, asked)
    run, commands = train(toy_parts(*CONCEPTS), CONFIG), None
    while True:
        report = run.send(commands)
        commands = asked.get(report.step + 1)
        if report.step + 1 == kept_at:
            state = report.state()
            # What the loop was about to do belongs to the state, or a break would undo it.
            save_state(path, replace(state, pivots={**state.pivots, "TOK": 3}))
            break
    run.close()
    rest = toy_parts(*CONCEPTS)
    driven(rest, CONFIG, {}, load_state(path))
    assert same(trained(rest), whole[-1][1])


def test_a_pivot_freezes_the_negative_embedding_too():
    live = {"TOK", "TOK-neg", "snow"}
    assert to_freeze([Pivot("TOK"), Finish(), Pivot("gone")], live) == ["TOK", "TOK-neg"]


def test_more_steps_leave_the_pivots_where_they_were(tmp_path: Path):
    short = driven(toy_parts(*CONCEPTS), CONFIG, {})
    save_state(tmp_path / "s.safetensors", short[-1][2].state())
    longer = toy_parts(*CONCEPTS)
    reports = driven(longer, replace(CONFIG, steps=12), {}, load_state(tmp_path / "s.safetensors"))
    assert len(reports) == 4
    assert same(of_concept(reports[-1][1], "snow"), of_concept(short[-1][1], "snow"))
    # A concept that never freezes trains on.
    assert not same(of_concept(reports[-1][1], "TOK"), of_concept(short[-1][1], "TOK"))


def test_the_average_is_the_exponential_mean_of_the_steps():
    parts = toy_parts(*CONCEPTS)
    reports = driven(parts, replace(CONFIG, ema_decay=0.3), {})
    wanted = dict(reports[0][1])
    for number, (_, state, _) in enumerate(reports[1:], start=1):
        decay = min(0.3, (1 + number) / (10 + number))
        frozen = number + 1 > 6
        for name, value in state.items():
            if frozen and name.startswith("snow"):
                wanted[name] = value
            else:
                wanted[name] = decay * wanted[name] + (1 - decay) * value
    with reports[-1][2].run.averaged():
        for name, value in trained(parts).items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-6)
    assert same(trained(parts), reports[-1][1])


def test_an_average_goes_on_after_a_break(tmp_path: Path):
    config, path = replace(CONFIG, ema_decay=0.3), tmp_path / "s.safetensors"
    whole = driven(toy_parts(*CONCEPTS), config, {})[-1][2].state()
    save_state(path, driven(toy_parts(*CONCEPTS), config, {4: [Finish()]})[-1][2].state())
    rest = driven(toy_parts(*CONCEPTS), config, {}, load_state(path))[-1][2].state()
    assert any(name.startswith("average.") for name in whole.tensors)
    assert same(dict(rest.tensors), dict(whole.tensors)) and rest.averaged == whole.averaged == 8


def test_without_a_decay_there_is_no_average():
    report = driven(toy_parts(*CONCEPTS), CONFIG, {})[-1][2]
    assert report.run.average is None and report.state().averaged == 0
    assert not isinstance(report.run.averaged(), Average)
