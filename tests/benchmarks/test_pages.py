"""The committed pages of the benchmarks are made from the committed numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapters
import dataset.page
import flags
import fuzz
import identity
import kernels.report
import memory
import names
import pytest
import routes
import runs.report
import speed.report
import startup

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
PAGES: dict[str, Callable[[Any], str]] = {
    "adapters": adapters.page,
    "names": names.page,
    "flags": flags.page,
    "fuzz": fuzz.page,
    "identity": identity.page,
    "kernels": kernels.report.page,
    "memory": memory.page,
    "routes": routes.page,
    "runs": runs.report.page,
    "speed": speed.report.page,
    "startup": startup.page,
}


@pytest.mark.parametrize("name", PAGES)
def test_a_committed_page_is_made_from_the_committed_numbers(name: str):
    content = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert PAGES[name](content) == (RESULTS / f"{name}.md").read_text(encoding="utf-8")


def test_the_page_of_the_datasets_is_made_from_three_files():
    assert dataset.page.page(RESULTS) == (RESULTS / "datasets.md").read_text(encoding="utf-8")
