"""Generators are a function of their key alone."""

from __future__ import annotations

import torch

from pack.training.randomness import generator


def draw(*key: int | str) -> list[float]:
    return torch.rand(4, generator=generator(*key)).tolist()


def test_the_same_key_gives_the_same_numbers():
    assert draw(7, "order", 3) == draw(7, "order", 3)


def test_the_seed_of_a_key_is_its_sha256_and_never_changes():
    assert generator(0).initial_seed() == 0x11D6039A01F57163
    assert generator(7, "order", 3).initial_seed() == 0x09E0C1165F1D2BFD


def test_different_keys_give_different_numbers():
    keys = [(1,), (2,), (1, 2), (2, 1), (12,), ("1",), (1, "2"), (-1,), (2**70,), ("order", 1)]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)


def test_the_global_state_is_left_alone():
    before = torch.get_rng_state()
    draw(5)
    assert torch.equal(torch.get_rng_state(), before)
