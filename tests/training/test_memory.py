"""The choice of blocks to recompute and of the micro-batch: always the fastest that fits."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pack.training.memory import MARGIN, Cost, choose

COST = Cost(blocks={"a": 100, "b": 200, "c": 400}, rest=50, fixed=1000)


@pytest.mark.parametrize(
    ("free", "kept", "split"),
    [
        (10_000, "abc", False),
        (1000 + int(MARGIN * 4 * 750), "abc", False),
        (1000 + int(MARGIN * 4 * 750) - 1, "a", False),
        (1000 + int(MARGIN * 4 * 450), "", False),
        (1000 + int(MARGIN * 4 * 450) - 1, "", True),
        (1000 + int(MARGIN * 450), "", True),
        (0, "", True),
    ],
)
def test_a_smaller_room_keeps_less(free: int, kept: str, split: bool):
    plan = choose(COST, 4, free)
    assert (plan.kept, plan.split) == (frozenset(kept), split)


def test_the_reason_names_the_figures():
    cost = Cost(blocks={"a": 10**9}, rest=10**9, fixed=0)
    assert choose(cost, 1, 10**10).reason == (
        "no block is computed twice: a step takes 2.40 GB of 10.00 GB free"
    )
    assert "the batch of 4 goes through sample by sample" in choose(cost, 4, 5 * 10**9).reason
    assert "even that is more than is free" in choose(cost, 1, 10**9).reason


SIZES = st.dictionaries(st.text(min_size=1, max_size=2), st.integers(1, 1000), max_size=5)


# A busy machine draws examples slowly.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    blocks=SIZES, rest=st.integers(0, 1000), free=st.integers(0, 10_000), batch=st.integers(1, 6)
)
def test_what_is_chosen_fits_whenever_anything_does(blocks, rest, free, batch):
    cost = Cost(blocks=blocks, rest=rest, fixed=10)
    plan = choose(cost, batch, free)
    subsets = itertools.chain.from_iterable(
        itertools.combinations(blocks, n) for n in range(len(blocks) + 1)
    )
    fits = [kept for kept in subsets if cost.bytes_for(frozenset(kept), batch) <= free]
    assert plan.split == (not fits and batch > 1)
    if fits:
        assert cost.bytes_for(plan.kept, batch) <= free
        # Not one block more of those that it would take next would fit.
        left = sorted((size, name) for name, size in blocks.items() if name not in plan.kept)
        if left:
            assert cost.bytes_for(plan.kept | {left[0][1]}, batch) > free
    else:
        assert not plan.kept
