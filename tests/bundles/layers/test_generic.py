"""LoRA key names against diffusers' own module names, and against the host's own key map."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pack.bundles.layers.generic import generic_key, kohya_key, to_generic, to_kohya, unet_module
from pack.bundles.load import load_bundle

UP = ".lora_up.weight"


def adaptable(model: torch.nn.Module) -> list[str]:
    """The names of every Linear and convolution."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


@pytest.fixture(scope="module")
def diffusers_unet() -> torch.nn.Module:
    """SD1.5's UNet at full size, without weights."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(cross_attention_dim=768)


def test_sd15_names_are_those_of_diffusers_modules(diffusers_unet: torch.nn.Module) -> None:
    modules = adaptable(diffusers_unet)
    kohya = {f"lora_unet_{name.replace('.', '_')}{UP}" for name in modules}
    generic = {generic_key(key, "sd15") for key in kohya}
    assert len(modules) > 250 and len(generic) == len(modules)
    stem = re.compile(
        r"diffusion_model\.(input_blocks|middle_block|output_blocks|time_embed|out)\."
    )
    assert all(stem.match(key) for key in generic)
    assert {kohya_key(key, "sd15") for key in generic} == kohya


@pytest.mark.parametrize(
    ("generic", "kohya"),
    [
        ("input_blocks.0.0", "conv_in"),
        ("input_blocks.1.0.in_layers.2", "down_blocks_0_resnets_0_conv1"),
        ("input_blocks.2.1.proj_in", "down_blocks_0_attentions_1_proj_in"),
        ("input_blocks.3.0.op", "down_blocks_0_downsamplers_0_conv"),
        ("input_blocks.4.0.skip_connection", "down_blocks_1_resnets_0_conv_shortcut"),
        (
            "input_blocks.8.1.transformer_blocks.0.attn2.to_k",
            "down_blocks_2_attentions_1_transformer_blocks_0_attn2_to_k",
        ),
        ("middle_block.0.emb_layers.1", "mid_block_resnets_0_time_emb_proj"),
        (
            "middle_block.1.transformer_blocks.0.ff.net.0.proj",
            "mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj",
        ),
        ("middle_block.2.out_layers.3", "mid_block_resnets_1_conv2"),
        ("output_blocks.2.1.conv", "up_blocks_0_upsamplers_0_conv"),
        ("output_blocks.5.2.conv", "up_blocks_1_upsamplers_0_conv"),
        (
            "output_blocks.11.1.transformer_blocks.0.attn1.to_out.0",
            "up_blocks_3_attentions_2_transformer_blocks_0_attn1_to_out_0",
        ),
        ("time_embed.2", "time_embedding_linear_2"),
        ("out.2", "conv_out"),
    ],
)
def test_sd15_names_of_known_files(generic: str, kohya: str) -> None:
    long, short = f"diffusion_model.{generic}{UP}", f"lora_unet_{kohya}{UP}"
    assert kohya_key(long, "sd15") == short
    assert generic_key(short, "sd15") == long


@pytest.mark.parametrize(
    "module",
    [
        "input_blocks.4.1.transformer_blocks.0.attn2.to_k",
        "middle_block.1.transformer_blocks.9.ff.net.2",
        "output_blocks.5.2.conv",
        "input_blocks.1.0.in_layers.2",
        "input_blocks.3.0.op",
        "label_emb.0.2",
        "time_embed.0",
        "out.2",
    ],
)
def test_sdxl_names_are_the_modules_with_underscores(module: str) -> None:
    short = f"lora_unet_{module.replace('.', '_')}{UP}"
    assert kohya_key(f"diffusion_model.{module}{UP}", "sdxl") == short
    assert generic_key(short, "sdxl") == f"diffusion_model.{module}{UP}"


@pytest.mark.parametrize(
    ("family", "encoder", "prefix"),
    [
        ("sd15", "clip_l", "lora_te_"),
        ("sd2", "clip_h", "lora_te_"),
        ("sdxl", "clip_l", "lora_te1_"),
        ("sdxl", "clip_g", "lora_te2_"),
    ],
)
def test_text_encoder_names(family: str, encoder: str, prefix: str) -> None:
    long = f"text_encoders.{encoder}.transformer.text_model.encoder.layers.11.self_attn.q_proj"
    short = f"{prefix}text_model_encoder_layers_11_self_attn_q_proj"
    assert kohya_key(long + ".alpha", family) == short + ".alpha"
    assert generic_key(short + ".alpha", family) == long + ".alpha"


@pytest.mark.parametrize("suffix", ["hada_w1_a", "lokr_w2", "lora_mid.weight", "diff_b", "alpha"])
def test_every_tensor_of_a_layer_moves_with_it(suffix: str) -> None:
    key = kohya_key(f"diffusion_model.middle_block.0.in_layers.2.{suffix}", "sd15")
    assert key == f"lora_unet_mid_block_resnets_0_conv1.{suffix}"


@pytest.mark.parametrize(
    "key",
    [
        "text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.lora_up.weight",
        "diffusion_model.middle_block.0.in_layers.2.unheard_of",
        "lora_unet_mid_block_resnets_0_conv1.lora_up.weight",
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.alpha",
    ],
)
def test_what_kohya_has_no_name_for_keeps_its_own(key: str) -> None:
    assert kohya_key(key, "sd15") == key


def test_other_families_keep_generic_names() -> None:
    lora = {"diffusion_model.double_blocks.0.img_attn.qkv.lora_up.weight": torch.ones(1)}
    for family in ("flux", ""):
        assert to_kohya(lora, family) == lora == to_generic(lora, family)


def test_a_layer_under_two_names_is_refused() -> None:
    long, short = f"diffusion_model.out.2{UP}", f"lora_unet_conv_out{UP}"
    with pytest.raises(ValueError, match="a layer under two names"):
        to_kohya({long: torch.ones(1), short: torch.ones(1)}, "sd15")


@pytest.mark.parametrize(
    "stem",
    [
        "lora_unet_nowhere",
        "lora_unet_down_blocks_0_attentions_0_unheard_of",
        "lora_unet_down_blocks_0_resnets_0_attn1_to_q",
        "lora_unet_up_blocks_0_downsamplers_0_conv",
        "lora_unet_mid_block_upsamplers_0_conv",
        "lora_unet_mid_block_attentions_1_proj_in",
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn3_to_q",
        "lora_unet_input_blocks_4_1_Transformer_proj_in",
        "lora_unet_double_blocks_0_img_attn_proj",
    ],
)
def test_a_stem_that_is_no_module_of_a_unet_stays_as_it_is(stem: str) -> None:
    for family in ("sd15", "sd2", "sdxl"):
        assert generic_key(stem + UP, family) == stem + UP
    assert unet_module(stem.removeprefix("lora_unet_")) == ""


# The UNets as the host builds them: both in full, and the one-level forms of tiny test checkpoints.
_SD15 = {"context_dim": 768, "num_heads": 8, "num_head_channels": -1}
_SDXL = {
    "context_dim": 2048,
    "num_heads": -1,
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
_LAYOUTS = {
    "SD15": _SD15
    | {
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
    },
    "SDXL": _SDXL
    | {
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
    },
    "tiny SD15": _SD15
    | {
        "num_res_blocks": [1],
        "channel_mult": [1],
        "transformer_depth": [1],
        "transformer_depth_output": [0, 0],
        "transformer_depth_middle": -2,
    },
    "tiny SD15 with attention on the way up": _SD15
    | {
        "num_res_blocks": [1],
        "channel_mult": [1],
        "transformer_depth": [1],
        "transformer_depth_output": [1, 1],
        "transformer_depth_middle": -2,
    },
    "tiny SDXL": _SDXL
    | {
        "num_res_blocks": [3],
        "channel_mult": [1],
        "transformer_depth": [0, 2, 5],
        "transformer_depth_output": [0, 0, 0, 0],
        "transformer_depth_middle": -2,
    },
}


class HostModel(torch.nn.Module):
    """A UNet where the host's key map looks for it."""

    def __init__(self, settings: dict[str, object]) -> None:
        super().__init__()
        import comfy.ops
        import comfy.supported_models
        from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

        common = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320}
        self.model_config = comfy.supported_models.SD15(common | settings)
        self.diffusion_model = UNetModel(
            use_spatial_transformer=True,
            legacy=False,
            dtype=torch.float32,
            device="meta",
            operations=comfy.ops.disable_weight_init,
            **common,
            **settings,
        )


@pytest.mark.host
@pytest.mark.parametrize("layout", list(_LAYOUTS))
def test_the_host_maps_both_names_of_every_unet_layer_to_the_same_weight(layout: str) -> None:
    pytest.importorskip("comfy")
    from comfy.lora import model_lora_keys_unet

    model = HostModel(_LAYOUTS[layout])
    family = "sdxl" if "SDXL" in layout else "sd15"
    known = model_lora_keys_unet(model, {})
    modules = [f"diffusion_model.{name}" for name in adaptable(model.diffusion_model)]
    assert len(modules) > 20
    for module in modules:
        stem = kohya_key(module + UP, family).removesuffix(UP)
        assert stem.startswith("lora_unet_")
        assert known[stem] == known[module] == f"{module}.weight"
        if layout in ("SD15", "SDXL"):
            assert generic_key(stem + UP, family) == module + UP


@pytest.mark.host
@pytest.mark.parametrize(
    ("family", "layout"), [("sd15", "SD15"), ("sd2", "SD15"), ("sdxl", "SDXL")]
)
def test_every_name_that_the_host_has_from_diffusers_means_the_same_module(
    family: str, layout: str
) -> None:
    """The host's table also has levels that end in a sampler that no UNet has."""
    pytest.importorskip("comfy")
    from comfy.utils import unet_to_diffusers

    table = {
        name.removesuffix(".weight").replace(".", "_"): module.removesuffix(".weight")
        for name, module in unet_to_diffusers(_LAYOUTS[layout]).items()
        if name.endswith(".weight")
    }
    assert len(table) > 280
    for name, module in table.items():
        assert generic_key(f"lora_unet_{name}{UP}", family) == f"diffusion_model.{module}{UP}"
        # A file that does not tell its family gets the same name, or the host's own look-up.
        assert unet_module(name) in ("", module)
        assert unet_module(module.replace(".", "_"), family) == module
    unsure = {name for name in table if not unet_module(name)}
    assert unsure == {f"up_blocks_{level}_upsamplers_0_conv" for level in (0, 2)}


@pytest.mark.host
@pytest.mark.parametrize(
    ("family", "layout", "context"),
    [("sd15", "SD15", 768), ("sdxl", "SDXL", 2048), ("", "SDXL", 5)],
)
def test_a_file_of_diffusers_for_every_layer_is_for_the_weights_that_the_host_finds(
    tmp_path: Path, family: str, layout: str, context: int
) -> None:
    """Also where its widths do not tell the family."""
    pytest.importorskip("comfy")
    from comfy.lora import model_lora_keys_unet
    from comfy.utils import unet_to_diffusers

    model = HostModel(_LAYOUTS[layout])
    weights = model.state_dict()
    # Of the two names of the layers that take a label, a file has one; the table is for any UNet.
    names = [
        name.removesuffix(".weight")
        for name, module in unet_to_diffusers(_LAYOUTS[layout]).items()
        if f"diffusion_model.{module}" in weights and not name.endswith("bias")
    ]
    names = [name for name in names if not name.startswith("class_embedding")]
    tensors = {f"unet.{name}.lora_A.weight": torch.ones(1, context) for name in names}
    tensors |= {f"unet.{name}.lora_B.weight": torch.ones(1, 1) for name in names}
    save_file(tensors, tmp_path / "x.safetensors")
    found = load_bundle(tmp_path / "x.safetensors")
    known = model_lora_keys_unet(model, {})
    assert found.family == family
    stems = {re.sub(r"\.lora_\w+\.weight$", "", key) for key in found.lora}
    wanted = {known[f"lora_unet_{name.replace('.', '_')}"] for name in names}
    assert len(stems) == len(wanted) > 280 and {known[stem] for stem in stems} == wanted


@pytest.mark.host
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_host_maps_both_names_of_every_text_layer_to_the_same_weight(family: str) -> None:
    pytest.importorskip("comfy")
    import comfy.sd1_clip
    import comfy.sdxl_clip
    from comfy.lora import model_lora_keys_clip

    kind = {"sd15": comfy.sd1_clip.SD1ClipModel, "sdxl": comfy.sdxl_clip.SDXLClipModel}[family]
    model = kind(device="meta", dtype=torch.float32)
    known = model_lora_keys_clip(model, {})
    layers = [f"text_encoders.{name}" for name in adaptable(model) if ".encoder.layers." in name]
    assert len(layers) == 6 * {"sd15": 12, "sdxl": 12 + 32}[family]
    for layer in layers:
        stem = kohya_key(layer + UP, family).removesuffix(UP)
        assert stem.startswith("lora_te")
        assert known[stem] == known[layer]
