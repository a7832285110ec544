"""Working on a LoRA file takes memory for its tensors and for one layer, not for all in fp64."""

from __future__ import annotations

import memory
import pytest

MEGABYTE = 1024**2


@pytest.mark.parametrize("action", ["Trim to half the rank", "Merge two files"])
def test_a_file_in_fp32_takes_at_most_twice_its_size_and_a_few_layers(action: str):
    """In fp64 and with all singular vectors at once it was 12 to 25 times."""
    size = 64 * MEGABYTE
    found = memory.measure(action, size, "fp32")
    assert found["files"] >= 0.9 * size
    assert found["peak"] <= 2 * found["files"] + 24 * MEGABYTE
