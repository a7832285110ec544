"""Presets and patterns choose the layers that their words say, in every family of names."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

import pytest
import torch

from pack.training.adapters import (
    MODEL,
    TEXT,
    Adapter,
    AdapterConfig,
    build_adapters,
    census,
    choose_layers,
)
from pack.training.adapters.lora import LoraConfig
from pack.training.adapters.targets import Targets, matches
from pack.training.ports import Layer

BLOCK = "input_blocks.1.1.transformer_blocks.0"
ATTENTION = [
    f"{BLOCK}.attn1.to_q",
    f"{BLOCK}.attn2.to_out.0",
    "double_blocks.0.img_attn.qkv",
    "double_blocks.0.txt_attn.proj",
    "single_blocks.3.linear1",
    "joint_blocks.0.x_block.attn.qkv",
    "joint_blocks.0.context_block.attn.proj",
    "layers.0.attention.qkv",
    "layers.0.attention.out",
    "transformer_blocks.0.attn.add_q_proj",
    "transformer_blocks.0.attn.to_add_out",
    "blocks.0.self_attn.q",
    "blocks.0.cross_attn.o",
    "blocks.0.cross_attn.k_img",
    "double_layers.0.attn.w1q",
    "clip_l.transformer.text_model.encoder.layers.0.self_attn.out_proj",
    "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q",
]
MLP = [
    f"{BLOCK}.ff.net.0.proj",
    f"{BLOCK}.ff.net.2",
    "double_blocks.0.img_mlp.0",
    "joint_blocks.0.x_block.mlp.fc1",
    "layers.0.feed_forward.w1",
    "blocks.0.ffn.0",
    "clip_l.transformer.text_model.encoder.layers.0.mlp.fc2",
    "t5xxl.transformer.encoder.block.0.layer.1.DenseReluDense.wi_0",
]
OTHERS = [
    "time_embed.0",
    "input_blocks.1.0.emb_layers.1",
    f"{BLOCK[:-21]}.proj_in",
    "t_embedder.mlp.0",
    "joint_blocks.0.x_block.adaLN_modulation.1",
    "double_blocks.0.img_mod.lin",
    "blocks.0.adaln_modulation_self_attn.1",
    "time_in.in_layer",
    "final_layer.linear",
]
CROSS = [f"{BLOCK}.attn2.to_k", f"{BLOCK}.attn2.to_v", "blocks.0.cross_attn.k"]
CONVOLUTIONS = ["input_blocks.1.0.in_layers.2", "output_blocks.2.1.conv", "mid.1.proj_in"]
ENDS = ["input_blocks.0.0", "out.2", "conv_in", "x_embedder.proj", "patch_embedding"]


def linear(name: str) -> Layer:
    return Layer(name=name, shape=(32, 32))


def convolution(name: str) -> Layer:
    return Layer(name=name, shape=(32, 32, 3, 3))


def taken(names: list[str], targets: Targets, make=linear, **where: bool) -> list[str]:
    return [name for name in names if matches(make(name), targets, **where)]


def test_attention_is_the_projections_of_every_family():
    assert taken([*ATTENTION, *MLP, *OTHERS], Targets.ATTENTION) == ATTENTION


def test_attention_and_mlp_adds_the_feed_forward_layers():
    assert taken([*ATTENTION, *MLP, *OTHERS], Targets.ATTENTION_MLP) == [*ATTENTION, *MLP]


def test_all_linear_is_every_linear_and_no_convolution():
    every = [*ATTENTION, *MLP, *OTHERS]
    assert taken(every, Targets.LINEAR) == every
    assert taken(CONVOLUTIONS, Targets.LINEAR, convolution) == []


def test_convolutions_come_without_the_first_and_the_last():
    names = [*CONVOLUTIONS, *ENDS]
    assert taken(names, Targets.CONVOLUTIONS, convolution) == CONVOLUTIONS
    assert taken(OTHERS, Targets.CONVOLUTIONS) == OTHERS, "and all linear layers"


def test_cross_attention_is_its_keys_and_values():
    assert taken([*CROSS, *ATTENTION], Targets.CROSS_KV) == [*CROSS, "blocks.0.cross_attn.k_img"]
    text = taken(ATTENTION[-2:], Targets.CROSS_KV, of_text=True)
    assert text == ATTENTION[-2:], "an encoder has no cross-attention: its attention is taken"


def layers() -> list[Layer]:
    names = [f"{BLOCK}.attn{i}.{end}" for i in (1, 2) for end in ("to_q", "to_k", "to_v")]
    return [linear(name) for name in [*names, f"{BLOCK}.ff.net.2"]]


def ranks(patterns: str, **settings: object) -> dict[str, int]:
    config = LoraConfig(rank=4, alpha=8.0, patterns=patterns, **settings)
    built = build_adapters(config, layers(), 0)
    return {name.removeprefix(f"{BLOCK}."): len(a.down) for name, a in built.items()}


def test_a_pattern_gives_rank_adds_layers_and_takes_them_out():
    found = ranks("attn2\\.to_k = 9 : 3\nff\\.net = 2\n-to_v")
    first = {"attn1.to_q": 4, "attn1.to_k": 4}
    assert found == first | {"attn2.to_q": 4, "attn2.to_k": 9, "ff.net.2": 2}


def test_the_first_line_that_fits_decides():
    assert ranks("-attn1\nattn = 7", targets=Targets.PATTERNS) == {
        "attn2.to_q": 7,
        "attn2.to_k": 7,
        "attn2.to_v": 7,
    }


def test_a_rank_alone_keeps_the_scale_and_an_alpha_sets_it():
    config = LoraConfig(rank=4, alpha=8.0, patterns="attn1 = 2\nattn2 = 2 : 1")
    built = build_adapters(config, layers(), 0)
    scales = {name.split(".")[-2]: adapter.scale for name, adapter in built.items()}
    assert scales["attn1"] == 2.0 and scales["attn2"] == 0.5


def test_a_pattern_is_searched_in_the_name_as_it_is_saved():
    config = LoraConfig(rank=2, patterns="-^text_encoders", text_encoder=True)
    chosen = choose_layers(config, layers(), [linear(ATTENTION[-2])])
    assert len(chosen[MODEL]) == 6 and chosen[TEXT] == []


def test_text_encoders_are_left_alone_unless_asked():
    assert TEXT not in choose_layers(LoraConfig(rank=2), layers(), [linear(ATTENTION[-2])])
    config = LoraConfig(rank=2, text_encoder=True)
    assert len(choose_layers(config, layers(), [linear(ATTENTION[-2])])[TEXT]) == 1


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class BiasConfig(AdapterConfig):
    """A kind that has no size."""

    bias: float = 0.0

    def build(self, layer: Layer, draw: torch.Generator) -> Adapter:
        return Adapter()


def test_a_kind_without_a_rank_takes_patterns_that_only_choose():
    config = BiasConfig(patterns="attn2\n-to_v", targets=Targets.PATTERNS)
    assert len(build_adapters(config, layers(), 0)) == 3
    assert not {"rank", "alpha"} & asdict(config).keys()
    assert repr(BiasConfig(bias=1.0)) == "BiasConfig(bias=1.0)"


@pytest.mark.parametrize("line", ["attn2 = 32 : 16", "attn2 = 32", "attn2 = : 16"])
def test_a_size_for_a_kind_without_a_rank_is_one_sentence(line: str):
    sentence = (
        f'The line "{line}" of patterns gives a rank, and this kind of adapter has none: leave '
        'out the "=" and what follows it.'
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        BiasConfig(patterns=f"attn1\n{line}")


def test_a_pattern_that_matches_nothing_is_one_sentence():
    with pytest.raises(ValueError, match=r'pattern "attn3" matches no layer .* such as diffusi'):
        ranks("attn1\nattn3")
    with pytest.raises(ValueError, match="The adapter matches no layer of this model: choose"):
        ranks("", targets=Targets.PATTERNS)


def test_a_rank_beyond_a_layers_says_how_to_leave_it_out():
    with pytest.raises(ValueError, match=r"rank 40 is larger than .* or leave the layer out"):
        ranks("attn1 = 40")


def test_the_census_counts_layers_and_parameters_by_pattern():
    config = LoraConfig(rank=4, patterns="attn2 = 2")
    lines = census({MODEL: build_adapters(config, layers(), 0), TEXT: {}}, config.patterns)
    assert lines == [
        "diffusion model: 6 layers adapted with 1,152 parameters",
        "  targets: 3 layers adapted with 768 parameters",
        "  attn2 = 2: 3 layers adapted with 384 parameters",
    ]
