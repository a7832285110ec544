"""Low-rank algebra against the full matrices, which only these tests form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pack.bundles.lowrank import (
    LowRank,
    compact,
    count_for_share,
    decompose,
    difference,
    joined,
    layer_tensors,
    merge,
    scale_values,
    split_lora,
    trim,
)


def layer(out: int = 12, width: int = 9, rank: int = 5, seed: int = 0) -> LowRank:
    draw = torch.Generator().manual_seed(seed)
    up = torch.randn(out, rank, generator=draw, dtype=torch.float64)
    down = torch.randn(rank, width, generator=draw, dtype=torch.float64)
    return LowRank(up=up, down=down, shape=(out, width))


def full(one: LowRank) -> Tensor:
    return one.up @ one.down


def close(left: Tensor, right: Tensor, bound: float = 1e-10) -> bool:
    return (left - right).abs().max().item() <= bound


@settings(max_examples=30, deadline=None)
@given(
    out=st.integers(1, 14), width=st.integers(1, 14), rank=st.integers(1, 8), seed=st.integers(0, 9)
)
def test_the_small_svd_is_that_of_the_whole_matrix(out: int, width: int, rank: int, seed: int):
    one = layer(out, width, rank, seed)
    svd = decompose(one)
    values = torch.linalg.svdvals(full(one))[: len(svd.values)]
    assert close(svd.values[: len(values)], values)
    assert close(full(svd.low_rank()), full(one))
    assert close(svd.u.T @ svd.u, torch.eye(len(svd.values), dtype=torch.float64))
    assert close(svd.vt @ svd.vt.T, torch.eye(len(svd.values), dtype=torch.float64))


def test_trimming_to_full_rank_changes_nothing():
    one = layer()
    assert close(full(trim(decompose(one), 5).low_rank()), full(one))
    assert close(full(trim(decompose(one), 99).low_rank()), full(one))


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_trimming_gives_the_smallest_possible_error(count: int):
    one = layer()
    trimmed = trim(decompose(one), count).low_rank()
    u, s, vt = torch.linalg.svd(full(one), full_matrices=False)
    best = (u[:, :count] * s[:count]) @ vt[:count]
    optimal = (full(one) - best).norm() / full(one).norm()
    made = (full(one) - full(trimmed)).norm() / full(one).norm()
    assert made.item() == pytest.approx(optimal.item(), abs=1e-6)
    assert difference(one, trimmed) == pytest.approx(optimal.item(), abs=1e-6)
    assert trimmed.rank == count


def test_a_share_of_energy_takes_the_fewest_values_that_hold_it():
    values = torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    assert [count_for_share(values, share) for share in (0.1, 9 / 14, 0.65, 13 / 14, 0.99)] == [
        1,
        1,
        2,
        2,
        3,
    ]
    assert count_for_share(values, 1.0) == 3, "a value of zero holds nothing"
    assert count_for_share(torch.zeros(3), 0.5) == 0


def test_single_values_are_scaled_in_their_place():
    one = layer()
    svd = decompose(one)
    scaled = scale_values(svd, {0: 0.5, 2: -1.0, 9: 7.0})
    wanted = full(one) - 0.5 * svd.values[0] * svd.u[:, :1] @ svd.vt[:1]
    wanted -= 2 * svd.values[2] * svd.u[:, 2:3] @ svd.vt[2:3]
    assert close(full(scaled.low_rank()), wanted)


def test_a_merge_is_the_exact_weighted_sum():
    parts = [layer(rank=2, seed=1), layer(rank=3, seed=2), layer(rank=1, seed=3)]
    merged = merge(parts, [0.5, -2.0, 1.0])
    assert close(full(merged), 0.5 * full(parts[0]) - 2.0 * full(parts[1]) + full(parts[2]))
    assert merged.rank == 6


def test_a_merge_with_itself_compacts_to_its_own_rank():
    one = layer(rank=3)
    both = compact(merge([one, one], [1.0, 1.0]))
    assert both.rank == 3 and close(full(both), 2 * full(one))


def test_layers_of_two_models_do_not_merge():
    with pytest.raises(ValueError, match="different shapes cannot be merged"):
        merge([layer(), layer(out=13)], [1.0, 1.0])


@pytest.mark.parametrize(
    ("up", "down"),
    [
        (".lora_up.weight", ".lora_down.weight"),
        (".lora_B.weight", ".lora_A.weight"),
        (".lora_B.default.weight", ".lora_A.default.weight"),
        (".lora.up.weight", ".lora.down.weight"),
        (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
        (".lora_B", ".lora_A"),
        ("_lora.up.weight", "_lora.down.weight"),
    ],
)
def test_every_spelling_is_read_with_its_scale(up: str, down: str):
    a, b = torch.randn(6, 2), torch.randn(2, 4)
    file = split_lora({f"x{down}": b, f"x{up}": a, "x.alpha": torch.tensor(3.0)})
    assert not file.others and list(file.layers) == ["x"]
    assert close(full(file.layers["x"]), 1.5 * a.double() @ b.double())


def test_without_alpha_the_scale_is_one():
    file = split_lora(
        {"x.lora_up.weight": torch.ones(3, 2), "x.lora_down.weight": torch.ones(2, 3)}
    )
    assert close(full(file.layers["x"]), torch.full((3, 3), 2.0).double())


def test_a_convolution_keeps_its_shape():
    lora = {
        "c.lora_up.weight": torch.randn(6, 2, 1, 1),
        "c.lora_down.weight": torch.randn(2, 4, 3, 3),
        "c.alpha": torch.tensor(1.0),
    }
    file = split_lora(lora)
    assert file.layers["c"].shape == (6, 4, 3, 3)
    again = layer_tensors("c", file.layers["c"])
    assert again["c.lora_up.weight"].shape == (6, 2, 1, 1)
    assert again["c.lora_down.weight"].shape == (2, 4, 3, 3)
    assert close(full(split_lora(again).layers["c"]), full(file.layers["c"]), 1e-6)


def test_a_tucker_core_is_folded_exactly():
    up, down = torch.randn(6, 2, 1, 1), torch.randn(3, 4, 1, 1)
    mid = torch.randn(2, 3, 3, 3)
    lora = {"c.lora_up.weight": up, "c.lora_down.weight": down, "c.lora_mid.weight": mid}
    one = split_lora(lora).layers["c"]
    wanted = torch.einsum("oa,abkl,bi->oikl", up[..., 0, 0], mid, down[..., 0, 0])
    assert one.shape == (6, 4, 3, 3)
    assert close(full(one).reshape(one.shape), wanted.double(), 1e-5)


def test_what_is_no_pair_of_factors_is_kept_as_it_is():
    lora = {
        "a.lora_up.weight": torch.ones(3, 1),
        "a.lora_down.weight": torch.ones(1, 3),
        "a.dora_scale": torch.ones(1, 3),
        "b.hada_w1_a": torch.ones(3, 1),
        "b.alpha": torch.tensor(2.0),
    }
    file = split_lora(lora)
    assert set(file.others) == {"a.dora_scale", "b.hada_w1_a", "b.alpha"}


def test_damaged_factors_are_one_sentence():
    with pytest.raises(ValueError, match="factors of x do not match"):
        split_lora({"x.lora_up.weight": torch.ones(3, 2), "x.lora_down.weight": torch.ones(3, 3)})


@pytest.mark.parametrize("alpha", [True, False])
def test_a_layer_of_rank_0_is_no_layer(alpha: bool):
    lora = {"x.lora_up.weight": torch.ones(3, 0), "x.lora_down.weight": torch.ones(0, 3)}
    file = split_lora(lora | ({"x.alpha": torch.tensor(1.0)} if alpha else {}))
    assert not file.layers and not file.others and file.empty == ["x"]


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((3, 1), (1,)), ((), (1, 3)), ((3, 0), (1, 3))])
def test_factors_without_two_axes_are_one_sentence(shapes: tuple[tuple[int, ...], ...]):
    up, down = map(torch.ones, shapes)
    with pytest.raises(ValueError, match="factors of x do not match"):
        split_lora({"x.lora_up.weight": up, "x.lora_down.weight": down})


def test_numbers_of_eight_bits_are_looked_at():
    key = "x.lora_up.weight"
    up = torch.tensor([[1.0], [float("nan")]]).to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=f"{key} holds NaN"):
        split_lora({key: up, "x.lora_down.weight": torch.ones(1, 3)})


def test_a_kernel_of_one_by_one_is_merged_with_none():
    """Files of old kohya scripts have `proj_in` as a convolution, newer ones as a matrix."""
    linear = {"x.lora_up.weight": torch.randn(4, 2), "x.lora_down.weight": torch.randn(2, 3)}
    convolution = {
        "x.lora_up.weight": torch.randn(4, 2, 1, 1),
        "x.lora_down.weight": torch.randn(2, 3, 1, 1),
    }
    one, other = (split_lora(lora).layers["x"] for lora in (linear, convolution))
    for layers in ((one, other), (other, one)):
        merged = merge(layers, [1.0, 1.0])
        assert close(full(merged), full(one) + full(other)) and merged.shape == layers[0].shape
    larger = replace(other, shape=(4, 3, 3, 1))
    with pytest.raises(ValueError, match="made for different models"):
        merge([one, larger], [1.0, 1.0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3)])
def test_factors_joined_in_place_are_those_of_the_sum_bit_for_bit(
    dtype: torch.dtype, kernel: tuple[int, ...]
):
    loras = [
        {
            "x.lora_up.weight": torch.randn(70, rank, *[1] * len(kernel)).to(dtype),
            "x.lora_down.weight": torch.randn(rank, 90, *kernel).to(dtype),
            "x.alpha": torch.tensor(3.0),
        }
        for rank in (5, 400)
    ]
    files, weights = [split_lora(lora).layers for lora in loras], [0.3, -1.7]
    wanted = layer_tensors("x", merge([file["x"] for file in files], weights))
    made = joined("x", [file.factors("x") for file in files], weights)
    assert made.keys() == wanted.keys()
    assert all(torch.equal(made[key], wanted[key]) for key in made)
