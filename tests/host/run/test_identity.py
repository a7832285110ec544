"""Whether two recipes are of one run, also where an earlier version knew fewer settings."""

from __future__ import annotations

import pytest

from pack.nodes.host.run.identity import changes

WANTED = {
    "train": {"seed": 1, "prior_batch": 0},
    "concepts": [{"placeholder": "TOK", "pivot": 0.5}],
}
USUAL = {"train": {"seed": 0, "prior_batch": 0}, "concepts": [{"pivot": 0.5}]}


def test_a_recipe_is_itself_and_not_another():
    assert not changes(WANTED, WANTED, USUAL)
    assert changes({}, WANTED, USUAL)
    assert changes(WANTED | {"resolution": 512}, WANTED, USUAL)


def test_a_setting_that_was_not_known_was_as_it_is_by_default():
    kept = WANTED | {"train": {"seed": 1}}
    assert not changes(kept, WANTED, USUAL)
    changed = WANTED | {"train": {"seed": 1, "prior_batch": 2}}
    assert changes(kept, changed, USUAL) == {"train.prior_batch": [0, 2]}


@pytest.mark.parametrize("part", ["train", "concepts"])
def test_a_part_that_is_missing_is_not_filled_from_defaults(part: str):
    kept = {name: value for name, value in WANTED.items() if name != part}
    assert changes(kept, WANTED, USUAL)
