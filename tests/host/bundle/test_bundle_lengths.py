"""Load Bundle on DoRA files of PEFT: each weight becomes what PEFT itself makes of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_management as management
import pytest
import torch
from host.bundle.test_adapters_in_diffusers import diffusers_unet, renamed_key
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.host.runner import Loaded
from pack.bundles.load import load_bundle
from pack.bundles.save import Container, save_bundle
from pack.nodes.host.bundle.apply import apply_bundle
from world import families

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="needs peft: pip install peft"
)
RANK, ALPHA = 4, 3.0
# A Linear with a bias and without, a convolution of 3 x 3, and all of diffusers' spellings of them.
TARGETS = ["to_q", "to_out.0", "conv1", "proj_in", "time_emb_proj"]


def peft_unet(weights: Mapping[str, Tensor], seed: int = 1) -> Any:
    """diffusers' UNet with a DoRA of PEFT on layers of every kind, far from its start."""
    from peft import LoraConfig

    unet = diffusers_unet(weights)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, use_dora=True))
    randomize(unet, seed)
    return unet


def randomize(model: nn.Module, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_magnitude" in name:
            parameter.data *= 1 + 0.5 * torch.rand(parameter.shape, generator=draw)
        elif "lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw)


def merged(model: nn.Module, strip: str = "") -> dict[str, Tensor]:
    """The weights that PEFT leaves when it merges its adapters, by the layer's name."""
    found: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if hasattr(layer, "merge") and hasattr(layer, "base_layer"):
            layer.merge()
            found[name.removeprefix(strip)] = layer.base_layer.weight.detach().clone()
    return found


def write_diffusers(unet: Any, path: Path) -> None:
    """As `save_lora_weights` writes it: the layers, and alpha in the header."""
    from diffusers import StableDiffusionPipeline
    from diffusers.training_utils import _collate_lora_metadata
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(unet)
    assert sum("lora_magnitude_vector" in key for key in state) == len(state) // 3 > 4
    StableDiffusionPipeline.save_lora_weights(
        str(path.parent),
        unet_lora_layers={key: tensor.detach().contiguous() for key, tensor in state.items()},
        weight_name=path.name,
        **_collate_lora_metadata({"unet": unet}),
    )


def applied(loaded: Any, bundle: Any, strength: float = 1.0) -> tuple[dict[str, Tensor], list[str]]:
    """Every patched weight by the host's own arithmetic, and the notes."""
    model, _, _, notes = apply_bundle(loaded.model, loaded.clip, bundle, strength_model=strength)
    weights = model.model.state_dict()
    found = {
        key: comfy.lora.calculate_weight(patches, weights[key].float().clone(), key)
        for key, patches in model.patches.items()
    }
    return found, notes


def error(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


@pytest.fixture
def peft_dora(sd15: Loaded, tmp_path: Path) -> Iterator[tuple[Path, dict[str, Tensor]]]:
    """A file of diffusers, and the weights that PEFT makes of it by the host's names."""
    with torch.inference_mode(False):
        weights = sd15.model.model.diffusion_model.state_dict()
        unet = peft_unet(weights)
        write_diffusers(unet, tmp_path / "dora.safetensors")
        by_name = merged(unet)
    wanted = {
        f"diffusion_model.{key}": by_name[renamed_key(key).removesuffix(".weight")]
        for key in weights
        if renamed_key(key).removesuffix(".weight") in by_name
    }
    assert len(wanted) == len(by_name) > 4
    yield tmp_path / "dora.safetensors", wanted


def test_every_weight_becomes_what_peft_makes_of_it(sd15: Loaded, peft_dora):
    path, wanted = peft_dora
    found, notes = applied(sd15, load_bundle(path))
    assert found.keys() == wanted.keys() and notes == []
    base = sd15.model.model.state_dict()
    for key, weight in wanted.items():
        assert error(base[key].float(), weight) > 0.1, "the adapter has to act"
        assert error(found[key], weight) < 3e-6, key


def test_at_half_strength_a_weight_is_half_way(sd15: Loaded, peft_dora):
    path, wanted = peft_dora
    found, _ = applied(sd15, load_bundle(path), strength=0.5)
    base = sd15.model.model.state_dict()
    for key, weight in wanted.items():
        assert error(found[key], (base[key].float() + weight) / 2) < 3e-6, key


@pytest.mark.parametrize("container", [Container.A1111, Container.LOOSE, Container.HEADER])
def test_the_lengths_stay_peft_s_in_a_saved_bundle(sd15: Loaded, peft_dora, container):
    path, wanted = peft_dora
    again = path.with_name("again.safetensors")
    save_bundle(load_bundle(path), again, container, None)
    found, notes = applied(sd15, load_bundle(again))
    assert found.keys() == wanted.keys() and notes == []
    assert all(error(found[key], weight) < 3e-6 for key, weight in wanted.items())


def test_a_second_lora_is_not_in_the_lengths_way(sd15: Loaded, peft_dora):
    """PEFT measures the weight that it finds, which is here one that another LoRA changed."""
    path, wanted = peft_dora
    bundle = load_bundle(path)
    key = next(key for key in wanted if key.endswith("attn2.to_q.weight"))
    layer = key.removesuffix(".weight")
    first = {
        f"{layer}.lora_up.weight": torch.randn(wanted[key].shape[0], 2) * 0.1,
        f"{layer}.lora_down.weight": torch.randn(2, wanted[key].shape[1]) * 0.1,
    }
    base = sd15.model.model.state_dict()[key].float()
    changed = base + first[f"{layer}.lora_up.weight"] @ first[f"{layer}.lora_down.weight"]
    up, down = (bundle.lora[f"{layer}.lora_{side}.weight"] for side in ("up", "down"))
    moved = changed + ALPHA / RANK * up @ down
    lengths = bundle.lora[f"{layer}.lora_magnitude_vector"][:, None]
    once = apply_bundle(sd15.model, sd15.clip, type(bundle)(family="", lora=first, embeddings={}))
    twice = apply_bundle(once[0], once[1], bundle)[0]
    found = comfy.lora.calculate_weight(twice.patches[key], base.clone(), key)
    assert error(found, lengths * moved / moved.norm(dim=1, keepdim=True)) < 3e-6


@pytest.fixture(scope="module")
def flux(host: Any) -> Iterator[Loaded]:
    with torch.inference_mode():
        model, clip, vae = families.load("flux")
    yield Loaded(model=model, clip=clip, vae=vae, path=host.base)
    management.unload_all_models()


@pytest.mark.parametrize("suffix", ["", ".weight", ".default.weight"])
def test_a_dora_for_flux_in_diffusers_words_acts_on_a_part_of_a_weight_too(
    flux: Loaded, tmp_path: Path, suffix: str
):
    """The host has query, key and value in one weight, of which this file knows the query."""
    from peft import LoraConfig, get_peft_model
    from peft.utils import get_peft_model_state_dict

    weights = flux.model.model.state_dict()
    qkv = weights["diffusion_model.double_blocks.0.img_attn.qkv.weight"].float()
    out = weights["diffusion_model.double_blocks.0.img_attn.proj.weight"].float()
    width = qkv.shape[1]
    with torch.inference_mode(False):
        tree: nn.Module = nn.ModuleDict(
            {"to_q": nn.Linear(width, width), "to_out": nn.ModuleList([nn.Linear(width, width)])}
        )
        tree["to_q"].weight.data = qkv[:width].clone()
        tree["to_out"][0].weight.data = out.clone()
        for name in ("attn", "0", "transformer_blocks"):
            tree = nn.ModuleDict({name: tree})
        config = LoraConfig(
            r=RANK, lora_alpha=RANK, target_modules=["to_q", "to_out.0"], use_dora=True
        )
        model = get_peft_model(tree, config)
        randomize(model, 2)
        state = get_peft_model_state_dict(model)
        wanted = merged(model, "base_model.model.transformer_blocks.0.attn.")
    file = {
        key.replace("base_model.model.", "transformer.").replace(
            "magnitude_vector", f"magnitude_vector{suffix}"
        ): tensor.detach().contiguous()
        for key, tensor in state.items()
    }
    save_file(file, tmp_path / "x.safetensors")
    found, notes = applied(flux, load_bundle(tmp_path / "x.safetensors"))
    assert notes == [] and len(found) == 2
    joined = torch.cat([wanted["to_q"], qkv[width:]])
    assert error(found["diffusion_model.double_blocks.0.img_attn.qkv.weight"], joined) < 3e-6
    proj = found["diffusion_model.double_blocks.0.img_attn.proj.weight"]
    assert error(proj, wanted["to_out.0"]) < 3e-6


def test_lengths_that_no_layer_takes_are_said(flux: Loaded):
    """The name of a layer that the host knows is not enough: its loader has to take the tensor."""
    layer = "diffusion_model.double_blocks.0.img_attn.proj"
    width = flux.model.model.state_dict()[f"{layer}.weight"].shape[0]
    lora = {
        f"{layer}.lora_up.weight": torch.ones(width, 2),
        f"{layer}.lora_down.weight": torch.ones(2, width),
        f"{layer}.lora_up.bias": torch.ones(width),
        "transformer.nowhere.lora_magnitude_vector": torch.ones(width),
    }
    bundle = load_from(lora)
    _, notes = applied(flux, bundle)
    assert notes == [f"2 LoRA tensors fit no layer of these models, such as {layer}.lora_up.bias."]


def test_lengths_of_another_number_are_refused(flux: Loaded):
    layer = "diffusion_model.double_blocks.0.img_attn.proj"
    width = flux.model.model.state_dict()[f"{layer}.weight"].shape[0]
    lora = {
        f"{layer}.lora_up.weight": torch.ones(width, 2),
        f"{layer}.lora_down.weight": torch.ones(2, width),
        f"{layer}.lora_magnitude_vector": torch.ones(3),
    }
    with pytest.raises(ValueError, match=f"holds 3 lengths for {width} outputs: the file is dam"):
        applied(flux, load_from(lora))


def test_half_a_layer_is_one_sentence(flux: Loaded):
    layer = "diffusion_model.double_blocks.0.img_attn.proj"
    lora = {f"{layer}.lora_up.weight": torch.ones(128, 2)}
    with pytest.raises(ValueError, match=f"lacks {layer}.lora_down.weight, a part of a layer"):
        applied(flux, load_from(lora))


def load_from(lora: dict[str, Tensor]) -> Any:
    from pack.bundles.bundle import Bundle

    return Bundle(family="", lora=lora, embeddings={})
