"""Each family's LoRA is saved under names by which the host finds the layers that it trained."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.model_management as management
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.host.measure import draw
from harness.host.trial import SMALL, Models, load_small
from pack.bundles.bundle import Bundle
from pack.bundles.layers.generic import KOHYA_FAMILIES
from pack.bundles.save import Container, save_bundle
from pack.nodes.host.denoiser.families import family_of
from pack.nodes.host.denoiser.port import HostDenoiser
from pack.nodes.host.text.port import HostTextEncoder
from pack.training.adapters import MODEL, TEXT, build_adapters, export_adapters
from pack.training.adapters.lora import LoraConfig
from pack.training.adapters.targets import Targets

ROOTS = {MODEL: "diffusion_model.", TEXT: ""}
"""What stands before the name of a layer in the host's own names of weights"""


@pytest.fixture(scope="module", params=SMALL)
def models(host: Any, request: pytest.FixtureRequest) -> Iterator[Models]:
    with torch.inference_mode():
        made = load_small(request.param)
    yield made
    management.unload_all_models()
    gc.collect()


def targets_of(family: str) -> Targets:
    """All that the default and the larger choices take; kohya has names for attention and MLPs."""
    return Targets.ATTENTION_MLP if family in KOHYA_FAMILIES else Targets.LINEAR


def lora_of(models: Models) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """A LoRA on both models as a run exports it, and the shapes of the layers it is for."""
    family, lora, shapes = family_of(models[0]), dict[str, Tensor](), dict[str, tuple[int, ...]]()
    config = LoraConfig(rank=1, alpha=1.0, targets=targets_of(family))
    ports = {MODEL: HostDenoiser(models[0], checkpointing=False), TEXT: HostTextEncoder(models[1])}
    for part, port in ports.items():
        layers = {layer.name: layer.shape for layer in port.layers()}
        adapters = build_adapters(config, port.layers(), 0)
        for adapter in adapters.values():
            nn.init.normal_(adapter.up, generator=draw(4))
        lora |= export_adapters(adapters, part)
        shapes |= {f"{part}.{name}": layers[name] for name in adapters}
    return lora, shapes


def test_the_host_finds_every_layer_by_its_saved_name(models: Models, tmp_path: Path):
    family = family_of(models[0])
    lora, shapes = lora_of(models)
    bundle = Bundle(family=family, lora=lora, embeddings={})
    (path,) = save_bundle(bundle, tmp_path / "a.safetensors", Container.A1111, None)
    saved = load_file(path)
    names = comfy.lora.model_lora_keys_unet(models[0].model, {})
    names = comfy.lora.model_lora_keys_clip(models[1].cond_stage_model, names)
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(saved), names, log_missing=False)
    wanted = {}
    for layer in shapes:
        part, _, name = layer.partition(".")
        wanted[f"{ROOTS[part]}{name}.weight"] = layer
    assert patches.keys() == wanted.keys()
    for key, layer in wanted.items():
        up, down = patches[key].weights[:2]
        assert torch.equal(up, lora[f"{layer}.lora_up.weight"]), key
        assert torch.equal(down, lora[f"{layer}.lora_down.weight"]), key


def test_saved_names_are_kohyas_or_the_hosts_own(models: Models, tmp_path: Path):
    family = family_of(models[0])
    lora, shapes = lora_of(models)
    bundle = Bundle(family=family, lora=lora, embeddings={})
    (path,) = save_bundle(bundle, tmp_path / "a.safetensors", Container.A1111, None)
    stems = {key.rpartition(".lora_")[0] for key in load_file(path) if ".lora_" in key}
    if family in KOHYA_FAMILIES:
        assert {stem.split("_")[0] for stem in stems} == {"lora"}
        assert all("." not in stem for stem in stems)
    else:
        assert stems == shapes.keys()
