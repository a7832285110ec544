"""Families whose width the host's loader has fixed: the tiny models have all else of the real."""

from __future__ import annotations

from typing import Any

import comfy.model_detection
import pytest

from world import families, released

SIZES = {"chroma": 631, "lumina2": 427, "zimage": 909, "qwenimage": 380}
"""Millions of numbers in one block of the release's width and what belongs to it"""


def found(name: str) -> tuple[Any, int]:
    """What the host's loader makes of a family's keys and shapes, and how many numbers they are."""
    config = families.host_config(released.numbers(name))
    network = config.get_model({}, "", device="meta").diffusion_model.state_dict()
    detected = comfy.model_detection.model_config_from_unet(network, "")
    return detected, sum(weight.numel() for weight in network.values())


@pytest.mark.parametrize("name", list(released.WIDTHS))
def test_the_loader_finds_the_family_at_the_releases_width(host: Any, name: str):
    """`dev.py bench families` trains these; no smaller file of the family can be found."""
    detected, count = found(name)
    assert type(detected).__name__ == families.TINY[name].config
    assert round(count / 1e6) == SIZES[name]


@pytest.mark.parametrize("name", list(released.WIDTHS))
def test_a_tiny_model_differs_in_its_widths_alone(host: Any, name: str):
    """What is not in the list of widths is to the host as it finds it in a file."""
    told = families.host_config(families.TINY[name]).unet_config
    widths = released.WIDTHS[name].keys()
    detected = found(name)[0].unet_config
    rest = {key: value for key, value in detected.items() if key not in widths}
    assert {key: told.get(key) for key in rest} == rest
