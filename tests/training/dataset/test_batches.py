"""Batches cover every picture, stay in one bucket and depend on seed and position alone."""

from __future__ import annotations

from collections import Counter

import pytest

from pack.training.dataset.batches import Batches

BUCKETS = ["wide"] * 5 + ["tall"] * 3 + ["square"]
REPEATS = [1, 2, 3, 1, 1, 4, 1, 1, 2]


def batches(batch_size: int = 2, seed: int = 0) -> Batches:
    return Batches(BUCKETS, REPEATS, batch_size, seed)


def epoch(order: Batches, number: int) -> list[tuple[int, ...]]:
    first = number * order.per_epoch
    return [order.at(first + i) for i in range(order.per_epoch)]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_every_epoch_shows_each_picture_as_often_as_it_repeats(batch_size: int):
    order = batches(batch_size)
    for number in range(5):
        shown = Counter(item for batch in epoch(order, number) for item in batch)
        assert [shown[item] for item in range(len(BUCKETS))] == REPEATS


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_a_batch_holds_one_bucket_and_is_as_full_as_it_can_be(batch_size: int):
    sizes: dict[str, list[int]] = {}
    for batch in epoch(batches(batch_size), 3):
        (bucket,) = {BUCKETS[item] for item in batch}
        sizes.setdefault(bucket, []).append(len(batch))
    for bucket, found in sizes.items():
        total = sum(r for b, r in zip(BUCKETS, REPEATS, strict=True) if b == bucket)
        full, rest = divmod(total, batch_size)
        assert sorted(found, reverse=True) == [batch_size] * full + [rest] * bool(rest)


def test_a_batch_is_a_pure_function_of_seed_and_index():
    walked = [batches().at(index) for index in range(60)]
    jumping = batches()
    assert [jumping.at(index) for index in reversed(range(60))] == walked[::-1]


def test_epochs_and_seeds_have_orders_of_their_own():
    order = batches()
    assert len({tuple(epoch(order, number)) for number in range(5)}) == 5
    assert epoch(batches(seed=1), 0) != epoch(order, 0)


def test_the_buckets_of_an_epoch_are_mixed():
    order = Batches(["a"] * 50 + ["b"] * 50, [1] * 100, 5, seed=0)
    first_half = {item < 50 for batch in epoch(order, 0)[:10] for item in batch}
    assert first_half == {True, False}


def test_equal_repeats_put_no_picture_twice_into_a_batch():
    order = Batches([0] * 12, [5] * 12, 4, seed=0)
    assert all(len(set(order.at(index))) == 4 for index in range(order.per_epoch * 3))


def test_other_pictures_share_a_batch_in_every_epoch():
    order = Batches([0] * 12, [2] * 12, 4, seed=0)
    seen = {frozenset(batch) for number in range(5) for batch in epoch(order, number)}
    assert len(seen) > 20


def test_all_places_are_equally_likely():
    firsts = Counter(Batches([0] * 4, [1] * 4, 1, seed).at(0)[0] for seed in range(2000))
    assert all(420 < firsts[item] < 580 for item in range(4))


@pytest.mark.parametrize(
    ("buckets", "repeats", "batch_size"), [([], [], 1), ([0], [1, 1], 1), ([0], [0], 1)]
)
def test_pictures_that_do_not_fit_together_are_refused(
    buckets: list[int], repeats: list[int], batch_size: int
):
    with pytest.raises(ValueError, match="one bucket and one repeat count"):
        Batches(buckets, repeats, batch_size, 0)


def test_impossible_batches_are_refused():
    with pytest.raises(ValueError, match="batch_size is 0"):
        batches(0)
    with pytest.raises(IndexError, match="Batch -1"):
        batches().at(-1)
