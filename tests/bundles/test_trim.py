"""What a LoRA learned as singular values: cut, scaled, reported and drawn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import factories
from pack.bundles.lowrank import split_lora
from pack.bundles.trim import (
    Keep,
    Trimming,
    by_block,
    parse_factors,
    spectrum_plot,
    spectrum_report,
    trim_lora,
)

FIRST = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
SECOND = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_k"
THIRD = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_v"


def lora() -> dict[str, Tensor]:
    return factories.lora(dict.fromkeys((FIRST, SECOND, THIRD), (12, 10)), alpha=2.0)


def full(tensors: dict[str, Tensor], stem: str) -> Tensor:
    layer = split_lora(tensors).layers[stem]
    return layer.up @ layer.down


def test_everything_kept_is_the_same_file():
    made, trimmed = lora(), trim_lora(lora(), Trimming())
    assert factories.same(trimmed.lora, made)
    assert max(trimmed.errors.values()) < 1e-12


def test_a_number_of_values_is_the_best_change_of_that_rank():
    made = lora()
    trimmed = trim_lora(made, Trimming(keep=Keep.COUNT, count=2))
    whole = full(made, FIRST)
    u, s, vt = torch.linalg.svd(whole)
    best = (u[:, :2] * s[:2]) @ vt[:2]
    assert torch.allclose(full(dict(trimmed.lora), FIRST), best, atol=1e-5)
    optimal = ((whole - best).norm() / whole.norm()).item()
    assert trimmed.errors[FIRST] == pytest.approx(optimal, abs=1e-6)
    assert f"{100 * optimal:.1f}"[:3] in spectrum_report(
        trim_lora(one(), Trimming(keep=Keep.COUNT, count=2))
    )


def one() -> dict[str, Tensor]:
    return {key: tensor for key, tensor in lora().items() if key.startswith(FIRST)}


def test_a_share_of_energy_keeps_at_least_that_share():
    trimmed = trim_lora(lora(), Trimming(keep=Keep.SHARE, share=0.8))
    for stem, error in trimmed.errors.items():
        assert error**2 <= 0.2 + 1e-9
        values = trimmed.before[stem]
        fewer = values[: len(trimmed.after[stem]) - 1]
        assert fewer.square().sum() < 0.8 * values.square().sum()


def test_single_values_are_scaled_after_the_trimming():
    made = lora()
    trimmed = trim_lora(made, Trimming(keep=Keep.COUNT, count=3, values="1 = 0.5\n2-3 = 0"))
    u, s, vt = torch.linalg.svd(full(made, SECOND))
    wanted = 0.5 * s[0] * u[:, :1] @ vt[:1]
    assert torch.allclose(full(dict(trimmed.lora), SECOND), wanted, atol=1e-5)


def test_a_layer_that_learned_nothing_stays_a_layer():
    empty = {key: tensor * (0 if "up" in key else 1) for key, tensor in lora().items()}
    trimmed = trim_lora(empty, Trimming(keep=Keep.SHARE, share=0.5))
    assert trimmed.lora[f"{FIRST}.lora_up.weight"].shape == (12, 1)
    spectrum_plot(trimmed)
    assert "error of the whole: 0.000 %" in spectrum_report(trimmed)


def test_blocks_are_those_of_the_model():
    trimmed = trim_lora(lora(), Trimming())
    assert by_block(trimmed.before) == {
        "input_blocks.1": [FIRST, SECOND],
        "middle_block_1": [THIRD],
    }


def test_what_has_no_values_is_one_sentence():
    with pytest.raises(ValueError, match="no low-rank layer, and so no singular values"):
        trim_lora({"a.hada_w1_a": torch.ones(2, 2)}, Trimming())


@pytest.mark.parametrize("line", ["0 = 1", "1", "2-1 = 3", "1 = x", "1 = inf", "a = 1"])
def test_a_line_of_values_that_is_not_understood_is_one_sentence(line: str):
    with pytest.raises(ValueError, match="of values is not understood: write position = factor"):
        parse_factors(line)


def test_the_plot_has_a_panel_a_block_and_both_colors():
    picture = spectrum_plot(trim_lora(lora(), Trimming(keep=Keep.COUNT, count=2)))
    colors = {color for _, color in picture.getcolors(maxcolors=100000)}
    assert {(192, 192, 192), (31, 95, 208)} <= colors


def test_layers_of_rank_0_are_named_and_dropped():
    empty = {
        f"{FIRST}.lora_up.weight": torch.ones(4, 0),
        f"{FIRST}.lora_down.weight": torch.ones(0, 4),
    }
    rest = {key: tensor for key, tensor in lora().items() if not key.startswith(FIRST)}
    trimmed = trim_lora(empty | rest, Trimming(keep=Keep.COUNT, count=1))
    assert f"1 layers of rank 0 change nothing: {FIRST}" in spectrum_report(trimmed)
    assert not any(key.startswith(FIRST) for key in trimmed.lora)


def control() -> dict[str, Tensor]:
    """Flux' control LoRA as its makers publish it."""
    return {
        "img_in.lora_A.weight": torch.randn(2, 8),
        "img_in.lora_B.weight": torch.randn(6, 2),
        "img_in.lora_B.bias": torch.randn(6),
        "single_blocks.0.norm.key_norm.scale": torch.randn(4),
    }


def uso() -> dict[str, Tensor]:
    names = [
        "single_blocks.37.processor.qkv_lora",
        "single_blocks.37.processor.proj_lora",
        "double_blocks.18.processor.qkv_lora2",
        "double_blocks.18.processor.proj_lora1",
    ]
    ends = {"up": (6, 2), "down": (2, 8)}
    return {f"{x}.{end}.weight": torch.randn(*size) for x in names for end, size in ends.items()}


KNOWN = {
    "control": (
        control,
        {
            "diffusion_model.img_in.diff_b",
            "diffusion_model.img_in.reshape_weight",
            "diffusion_model.single_blocks.0.norm.key_norm.set_weight",
        },
        {"diffusion_model.img_in"},
    ),
    "uso": (
        uso,
        set(),
        {
            "diffusion_model.single_blocks.37.linear1_qkv",
            "diffusion_model.single_blocks.37.linear2",
            "diffusion_model.double_blocks.18.txt_attn.qkv",
            "diffusion_model.double_blocks.18.img_attn.proj",
        },
    ),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_files_that_the_host_knows_as_a_whole_get_its_generic_names(kind: str):
    make, others, layers = KNOWN[kind]
    made = make()
    assert factories.same(trim_lora(made, Trimming()).lora, made)
    trimmed = trim_lora(made, Trimming(keep=Keep.COUNT, count=2)).lora
    assert {key for key in trimmed if ".lora_" not in key and ".alpha" not in key} == others
    assert {key.partition(".lora_")[0] for key in trimmed if ".lora_" in key} == layers


def test_the_factors_of_a_file_are_formed_one_layer_at_a_time():
    file = split_lora(lora())
    layer = file.layers[FIRST]
    assert layer.up.dtype == torch.float64 and file.layers[FIRST] is not layer
