"""The loss plot: its mean line and its pixels."""

from __future__ import annotations

import pytest

from pack.training.evaluation.curves import SIZE, exponential_mean, loss_plot


def test_the_mean_line_weighs_the_past_exponentially():
    values = [4.0, 1.0, 2.5, 3.0]
    for end in range(1, 5):
        weights = [0.9 ** (end - 1 - i) for i in range(end)]
        total = sum(w * v for w, v in zip(weights, values, strict=False))
        assert exponential_mean(values, 0.9)[end - 1] == pytest.approx(total / sum(weights))


@pytest.mark.parametrize("losses", [[0.5], [0.0, 0.0], [0.1 * i for i in range(500)]])
def test_every_run_has_a_plot_with_both_lines(losses: list[float]):
    picture = loss_plot(losses)
    assert picture.size == SIZE
    colors = {color for _, color in picture.getcolors(maxcolors=4096)}
    assert (0x1F, 0x5F, 0xD0) in colors
