"""The speed benchmark's arithmetic, and a contender that really steps."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path

import pytest
from speed.against import compare, table
from speed.parts import Part, cpu_parts, cuda_parts
from speed.play import ROOT, play
from speed.report import page
from speed.setup import Setup, parse
from speed.statistics import bootstrap_ratio, median_interval, ratio_interval


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    rng, hits = random.Random(0), 0
    for _ in range(1000):
        interval = median_interval([rng.expovariate(1.0) for _ in range(12)])
        hits += interval.low <= 0.6931 <= interval.high
    assert 940 <= hits <= 990


def test_the_interval_is_that_of_the_binomial_table():
    """For 12 values the third from each end, for 6 the range (David and Nagaraja, table 7.1)."""
    twelve = median_interval(range(1, 13))
    assert (twelve.low, twelve.median, twelve.high) == (3, 6.5, 10)
    six = median_interval(range(1, 7))
    assert (six.low, six.high) == (1, 6)


def test_a_ratio_is_taken_pair_by_pair():
    """Drift that both share drops out."""
    ratio = ratio_interval([1.0, 2.0, 30.0], [2.0, 4.0, 60.0])
    assert (ratio.median, ratio.low, ratio.high) == (0.5, 0.5, 0.5)


def test_sessions_that_differ_widen_the_bootstrap_interval():
    alike = bootstrap_ratio([[0.9, 1.0, 1.1]] * 6)
    apart = bootstrap_ratio([[r, r, r] for r in (0.9, 0.9, 1.0, 1.0, 1.1, 1.1)])
    assert alike.median == apart.median == 1.0
    assert apart.high - apart.low >= alike.high - alike.low > 0
    assert bootstrap_ratio([[2.0] * 5] * 5).low == bootstrap_ratio([[2.0] * 5] * 5).high == 2.0


def test_the_bootstrap_interval_holds_the_true_ratio_about_as_often_as_it_says():
    rng, hits = random.Random(0), 0
    for _ in range(100):
        shifts = [rng.gauss(0, 0.02) for _ in range(10)]
        sessions = [[math.exp(rng.gauss(shift, 0.03)) for _ in range(8)] for shift in shifts]
        interval = bootstrap_ratio(sessions, draws=300)
        hits += interval.low <= 1.0 <= interval.high
    assert 88 <= hits <= 100


def test_a_setup_survives_its_command_line():
    setups = [setup for part in cpu_parts() + cuda_parts() for setup in part.setups]
    assert all(parse(setup.words()) == setup for setup in setups)


def test_parts_have_names_of_their_own():
    names = [part.name for part in cpu_parts() + cuda_parts()]
    assert len(names) == len(set(names))


def test_a_contender_without_memory_gets_its_row():
    row = {
        "part": "a",
        "name": "native",
        "contender": "native",
        "failed": "out of memory",
        "device": "cpu",
    }
    made = {"torch": "1", "diffusers": "1", "peft": "1", "transformers": "1", "ComfyUI": "1"}
    made |= {"gpu": "", "processor": "p", "cores": 2, "system": "s"}
    text = page({"machines": {"a": made}, "rows": [row]})
    assert "| native | out of memory |" in text
    assert "there was no GPU" in text


@pytest.mark.skipif(not os.environ.get("PIVOTAL_COMFYUI"), reason="needs ComfyUI")
def test_a_contender_steps_on_command_and_counts(tmp_path: Path):
    part = Part(name="one", setups=(Setup(contender="ours", latent=8),), rounds=2)
    kept: list[list[dict[str, object]]] = []
    play(part, tmp_path / "log", lambda _: None, kept.append)
    (row,) = kept[-1]
    assert "failed" not in row, (tmp_path / "log").read_text(encoding="utf-8")[-2000:]
    assert len(row["seconds"]) == 2 and min(row["seconds"]) > 0
    assert row["saved_bytes"] > 0
    assert row["encoder_calls"] == 0
    json.dumps(row)


@pytest.mark.skipif(not os.environ.get("PIVOTAL_COMFYUI"), reason="needs ComfyUI")
def test_a_checkout_is_compared_with_itself(tmp_path: Path):
    ours, floor = Setup(contender="ours", latent=8), Setup(contender="floor", latent=8)
    part = Part(name="one", setups=(ours, floor), rounds=3)
    (sessions,) = compare(part, ROOT, 1, tmp_path / "log", lambda _: None)
    assert [row["contender"] for row in sessions[0]] == ["ours", "ours"], "only the pack's own"
    lines = table(ROOT, sessions).splitlines()
    assert len(lines) == 5
    assert lines[-1].startswith("| ours, latent 8 |") and "| 3 | 1 |" in lines[-1]
