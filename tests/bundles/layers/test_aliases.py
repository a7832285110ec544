"""Names of one layer meet when bundles are merged, and what cannot be told is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pack.bundles.bundle import Bundle
from pack.bundles.edit import NameClash, merge_bundles
from pack.bundles.layers.aliases import one_spelling

CLIP = "text_model_encoder_layers_3_self_attn_q_proj"
DOTTED = "text_model.encoder.layers.3.self_attn.q_proj"
UNTOLD = "name their layers in two ways .*: apply them by Load Bundle, one after the other"
SAME = [
    (
        "",
        "lora_unet_double_blocks_0_img_attn_proj",
        "diffusion_model.double_blocks.0.img_attn.proj",
    ),
    (
        "",
        "diffusion_model.double_blocks.7.txt_mlp.2",
        "lycoris_transformer_blocks_7_ff_context_net_2",
    ),
    ("flux", "lora_unet_single_blocks_1_linear2", "single_transformer_blocks.1.proj_out"),
    ("", "diffusion_model.double_blocks.0.img_mlp.fc1", "transformer.double_blocks.0.img_mlp.0"),
    (
        "",
        "diffusion_model.single_blocks.0.modulation.linear",
        "lora_unet_single_blocks_0_modulation_lin",
    ),
    ("", "diffusion_model.blocks.9.self_attn.q", "lora_unet_blocks_9_self_attn_q"),
    ("", "lora_unet__blocks_0_cross_attn_k", "diffusion_model.blocks.0.cross_attn.k"),
    (
        "",
        "transformer.transformer_blocks.1.attn.to_q",
        "diffusion_model.transformer_blocks.1.attn.to_q",
    ),
    ("", "diffusion_model.all_final_layer.2-1.linear", "lora_unet_final_layer_linear"),
    ("", f"lora_te1_{CLIP}", f"text_encoder.{DOTTED}"),
    ("", f"lora_te2_{CLIP}", f"text_encoders.clip_g.transformer.{DOTTED}"),
    (
        "",
        "lora_te2_encoder_block_0_layer_0_SelfAttention_q",
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q",
    ),
    (
        "",
        "lora_te_layers_0_mlp_up_proj",
        "text_encoders.qwen3_4b.transformer.model.layers.0.mlp.up_proj",
    ),
    ("", "text_encoders.transformer.model.layers.0.mlp.up_proj", "lora_te_layers_0_mlp_up_proj"),
    ("sd15", f"lora_te1_{CLIP}", f"lora_te_{CLIP}"),
    ("sd15", f"text_encoder.{DOTTED}", f"lora_te_{CLIP}"),
    ("sd2", f"text_encoder.{DOTTED}", f"text_encoders.clip_h.transformer.{DOTTED}"),
    ("sdxl", f"text_encoder_2.{DOTTED}", f"lora_te2_{CLIP}"),
    ("sdxl", f"text_encoder.{DOTTED}", f"lora_te1_{CLIP}"),
    ("sdxl", "unet.up_blocks.0.upsamplers.0.conv", "lora_unet_output_blocks_2_2_conv"),
    ("sd15", "lycoris_up_blocks_0_upsamplers_0_conv", "diffusion_model.output_blocks.2.1.conv"),
    (
        "",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_out",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_out_0",
    ),
    ("", "unet.mid_block.resnets.1.conv2", "diffusion_model.middle_block.2.out_layers.3"),
]
DIFFERENT = [
    ("flux", "lora_te1_text_projection", "lora_te2_text_projection"),
    ("", f"lora_te1_{CLIP}", f"lora_te2_{CLIP}"),
    ("", "diffusion_model.blocks.1.1.conv", "diffusion_model.blocks.11.conv"),
    ("", "diffusion_model.a.0.q", "lora_unet_a_0_k"),
    (
        "",
        "text_encoders.qwen3_06b.transformer.model.layers.0.mlp.up_proj",
        "text_encoders.qwen3_4b.transformer.model.layers.0.mlp.up_proj",
    ),
    ("", "lora_unet_double_blocks_0_img_attn_proj", "lora_unet_double_blocks_0_txt_attn_proj"),
]


def factors(stem: str) -> dict[str, Tensor]:
    return {
        f"{stem}.lora_up.weight": torch.randn(8, 2),
        f"{stem}.lora_down.weight": torch.randn(2, 6),
    }


def merged(*stems: str, family: str = "") -> tuple[Bundle, Tensor]:
    """The merged bundle, and the sum of what its files change."""
    loras = [factors(stem) for stem in stems]
    bundles = [Bundle(family=family, lora=lora, embeddings={}) for lora in loras]
    ups, downs = ([list(lora.values())[place] for lora in loras] for place in (0, 1))
    whole = sum((up @ down for up, down in zip(ups, downs, strict=True)), torch.zeros(8, 6))
    return merge_bundles(bundles, [1.0] * len(stems), NameClash.ERROR), whole


@pytest.mark.parametrize(("family", "one", "other"), SAME)
@pytest.mark.parametrize("turned", [False, True])
def test_two_names_of_one_layer_become_one_with_the_sum(
    family: str, one: str, other: str, turned: bool
) -> None:
    made, whole = merged(*([other, one] if turned else [one, other]), family=family)
    assert len(made.lora) == 3
    up, down = (next(t for k, t in made.lora.items() if side in k) for side in ("up.w", "down.w"))
    torch.testing.assert_close(up @ down, whole)


@pytest.mark.parametrize(("family", "one", "other"), DIFFERENT)
def test_two_layers_stay_two(family: str, one: str, other: str) -> None:
    made, _ = merged(one, other, family=family)
    assert {key.removesuffix(".alpha") for key in made.lora if key.endswith(".alpha")} == {
        one,
        other,
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Both names of Stable Diffusion 3, whose table is not here.
        (
            "diffusion_model.joint_blocks.0.x_block.attn.proj",
            "transformer.transformer_blocks.0.attn.to_out.0",
        ),
        ("lora_unet_blocks_0_attn_proj", "base_model.model.transformer_blocks.0.attn1.to_out.0"),
        ("diffusion_model.decoder.layers.0.q", "lycoris_layers_0_q"),
        # The upsampler of SD1.x stands elsewhere than that of SDXL.
        ("diffusion_model.output_blocks.2.1.conv", "unet.up_blocks.0.upsamplers.0.conv"),
        # A model with CLIP-G alone calls it lora_te, as others call CLIP-L.
        (f"text_encoders.clip_g.transformer.{DOTTED}", f"lora_te_{CLIP}"),
    ],
)
def test_layers_that_may_be_the_same_are_refused(one: str, other: str) -> None:
    for stems in ((one, other), (other, one)):
        with pytest.raises(ValueError, match=UNTOLD):
            merged(*stems)


def test_an_unnamed_encoder_that_may_be_either_of_two_is_refused() -> None:
    layer = "transformer.model.layers.0.mlp.up_proj"
    named = [f"text_encoders.{encoder}.{layer}" for encoder in ("qwen3_06b", "qwen3_4b")]
    with pytest.raises(ValueError, match=UNTOLD):
        one_spelling([named, ["lora_te_layers_0_mlp_up_proj"]], "")


def test_unknown_names_of_two_kinds_merge_where_all_of_one_file_are_in_the_other() -> None:
    own = [f"diffusion_model.thing.{number}.q" for number in range(3)]
    names = one_spelling([own, [f"transformer.thing.{number}.q" for number in (2, 0)]], "")
    assert names[1] == {"transformer.thing.2.q": own[2], "transformer.thing.0.q": own[0]}
    with pytest.raises(ValueError, match=UNTOLD):
        one_spelling([own, ["transformer.thing.0.q", "transformer.thing.3.q"]], "")


def test_files_of_one_kind_are_never_refused() -> None:
    for prefix in ("diffusion_model.", "lora_unet_", "transformer.", "unet.up_blocks.0.", ""):
        one, other = ([f"{prefix}{name}" for name in names] for names in ("ab", "bc"))
        assert len({*one_spelling([one, other], "")[0], *one_spelling([one, other], "")[1]}) == 3


def test_a_layer_twice_in_one_file_is_refused() -> None:
    twice = ["diffusion_model.blocks.0.q", "lora_unet_blocks_0_q"]
    with pytest.raises(
        ValueError, match="holds a layer under two names, diffusion_model.blocks.0.q"
    ):
        one_spelling([twice], "")
