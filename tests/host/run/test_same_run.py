"""Which changes begin a new run, and which find the run that was there."""

from __future__ import annotations

from collections.abc import Iterator

import comfy.model_management
import pytest

from harness.host.runner import Host
from harness.host.same_runs import (
    TABLE,
    Change,
    expected_same,
    identity_with,
    is_same,
    prepare,
    random_pair,
)
from pack.nodes.host.run.identity import Identity

SEEDS = range(100, 108)
"""A small share of what `dev.py bench identity` tries"""


@pytest.fixture(scope="module", autouse=True)
def prepared(host: Host, sd15) -> Iterator[None]:
    prepare(host)
    yield
    for name in ("sd15 other", "sd15 again"):
        host.loaded.pop(name, None)
    comfy.model_management.unload_all_models()


@pytest.fixture(scope="module")
def plain(host: Host, prepared) -> Identity:
    return identity_with(host, [])


@pytest.mark.parametrize("change", TABLE, ids=lambda change: change.name)
def test_a_change_begins_a_new_run_or_not_as_the_table_says(host, plain, change: Change):
    changed, again = (identity_with(host, [change]) for _ in range(2))
    assert is_same(plain, changed) == (not change.new_run)
    assert is_same(changed, again)


@pytest.mark.parametrize("seed", SEEDS)
def test_two_graphs_are_the_same_run_if_the_table_says_so(host, seed: int):
    one, other = random_pair(seed)
    found = [identity_with(host, changes) for changes in (one, other)]
    assert is_same(*found) == expected_same(one, other)
