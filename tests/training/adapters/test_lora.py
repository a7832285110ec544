"""LoRA is exactly its low-rank change of the weight, from its first value to its file."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from pack.training.adapters import build_adapters, export_adapters
from pack.training.adapters.lora import Lora, LoraConfig
from pack.training.adapters.targets import Targets, matches
from pack.training.ports import Layer
from pack.training.randomness import generator

LAYER = Layer(name="block.attn1.to_q", shape=(7, 5))


def trained_lora(rank: int = 3, alpha: float = 2.0) -> Lora:
    """A LoRA in double precision whose factors are no longer their first values."""
    made = LoraConfig(rank=rank, alpha=alpha).build(LAYER, generator(0)).double()
    for factor in made.parameters():
        nn.init.normal_(factor)
    return made


def test_the_low_rank_path_equals_the_full_change_of_the_weight():
    lora, weight = trained_lora(), torch.randn(7, 5, dtype=torch.float64)
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    low_rank = x @ weight.T + lora(x)
    full = x @ (weight + 2.0 / 3 * lora.up @ lora.down).T
    torch.testing.assert_close(low_rank, full, rtol=0, atol=1e-10)


def test_gradients_agree_with_finite_differences():
    lora = trained_lora()
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def delta(x, down, up):
        return functional_call(lora, {"down": down, "up": up}, (x,))

    assert torch.autograd.gradcheck(delta, (x, lora.down, lora.up), atol=1e-8)


def test_at_its_start_the_change_is_exactly_0_and_yet_it_can_learn():
    lora = LoraConfig(rank=4).build(LAYER, generator(0))
    x = torch.randn(3, 5)
    output = lora(x)
    assert torch.equal(output, torch.zeros(3, 7))
    output.sum().backward()
    assert lora.up.grad.abs().min() > 0
    assert lora.down.detach().abs().max() <= 5**-0.5 and len(lora.down.unique()) == 20


def test_the_factors_stay_in_fp32_under_inputs_of_half_precision():
    lora = LoraConfig(rank=2).build(LAYER, generator(0))
    assert lora(torch.randn(3, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert {factor.dtype for factor in lora.parameters()} == {torch.float32}
    assert {name for name, _ in lora.named_parameters()} == {"down", "up"}, "alpha never trains"


def test_loaders_get_what_was_trained():
    """Loaders add strength * alpha / rank * up @ down, the rank being the rows of lora_down."""
    lora = trained_lora()
    tensors = export_adapters({"a.to_q": lora}, "diffusion_model")
    prefix = "diffusion_model.a.to_q"
    assert set(tensors) == {
        f"{prefix}.{suffix}" for suffix in ("lora_up.weight", "lora_down.weight", "alpha")
    }
    up, down = tensors[f"{prefix}.lora_up.weight"], tensors[f"{prefix}.lora_down.weight"]
    loaded = tensors[f"{prefix}.alpha"].item() / down.shape[0] * up @ down
    torch.testing.assert_close(loaded, lora(torch.eye(5).double()).T.detach(), rtol=0, atol=1e-12)


def test_exported_tensors_are_copies_without_a_graph():
    lora = trained_lora()
    tensors = export_adapters({"x": lora}, "m")
    before = tensors["m.x.lora_up.weight"].clone()
    nn.init.ones_(lora.up)
    assert torch.equal(tensors["m.x.lora_up.weight"], before)
    assert not any(tensor.requires_grad for tensor in tensors.values())


def test_a_rank_beyond_the_layers_is_refused_by_the_layers_name():
    LoraConfig(rank=5).build(LAYER, generator(0))
    with pytest.raises(ValueError, match=r"rank 6 is larger than block\.attn1\.to_q, .* use 5 or"):
        build_adapters(LoraConfig(rank=6), [LAYER], 0)


def test_a_model_without_attention_is_refused():
    with pytest.raises(ValueError, match="matches no layer"):
        build_adapters(LoraConfig(), [Layer(name="conv_in", shape=(4, 4, 3, 3))], 0)


def test_every_layer_is_drawn_from_the_seed_and_its_own_name():
    other = Layer(name="block.attn2.to_k", shape=(7, 5))
    config = LoraConfig(rank=2)
    alone, both = build_adapters(config, [LAYER], 3), build_adapters(config, [other, LAYER], 3)
    down = alone[LAYER.name].down
    assert torch.equal(both[LAYER.name].down, down)
    assert not torch.equal(both[other.name].down, down)
    assert not torch.equal(build_adapters(config, [LAYER], 4)[LAYER.name].down, down)


# The transformers of Stable Diffusion 1.5 and the rest of one of its blocks.
TRANSFORMERS = [
    *(f"input_blocks.{i}.1" for i in (1, 2, 4, 5, 7, 8)),
    "middle_block.1",
    *(f"output_blocks.{i}.1" for i in range(3, 12)),
]
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
ATTENTION = [
    f"{place}.transformer_blocks.0.{attention}.{projection}"
    for place in TRANSFORMERS
    for attention in ("attn1", "attn2")
    for projection in PROJECTIONS
]
OTHERS = [
    "time_embed.0",
    "time_embed.2",
    "input_blocks.0.0",
    "input_blocks.1.0.in_layers.2",
    "input_blocks.1.0.emb_layers.1",
    "input_blocks.1.0.out_layers.3",
    "input_blocks.3.0.op",
    "input_blocks.4.0.skip_connection",
    "input_blocks.1.1.proj_in",
    "input_blocks.1.1.proj_out",
    "input_blocks.1.1.transformer_blocks.0.ff.net.0.proj",
    "input_blocks.1.1.transformer_blocks.0.ff.net.2",
    "output_blocks.5.2.conv",
    "out.2",
]


def matched(layers: list[Layer]) -> list[str]:
    return [layer.name for layer in layers if matches(layer, Targets.ATTENTION)]


def test_the_attention_projections_of_sd15_get_an_adapter_and_nothing_else():
    layers = [Layer(name=name, shape=(320, 320)) for name in [*OTHERS, *ATTENTION]]
    assert matched(layers) == ATTENTION and len(ATTENTION) == 128


def test_a_convolution_gets_none_whatever_its_name():
    assert matched([Layer(name="mid.attn1.to_q", shape=(8, 8, 1, 1))]) == []


@pytest.mark.host
def test_the_names_are_those_of_the_hosts_full_model():
    from comfy import ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    with torch.device("meta"):
        made = UNetModel(
            image_size=32,
            in_channels=4,
            out_channels=4,
            model_channels=320,
            num_res_blocks=[2, 2, 2, 2],
            channel_mult=[1, 2, 4, 4],
            num_heads=8,
            use_spatial_transformer=True,
            transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
            transformer_depth_middle=1,
            transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            context_dim=768,
            use_linear_in_transformer=False,
            legacy=False,
            operations=ops.disable_weight_init,
        )
    kinds = (nn.Linear, nn.Conv2d)
    layers = [
        Layer(name=name, shape=tuple(module.weight.shape))
        for name, module in made.named_modules()
        if isinstance(module, kinds)
    ]
    assert sorted(matched(layers)) == sorted(ATTENTION)
    assert {layer.name for layer in layers} >= set(OTHERS)
    assert len(layers) > len(ATTENTION) + 100
