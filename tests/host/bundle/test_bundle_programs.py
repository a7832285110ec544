"""Load Bundle on LoRA files of other programs: every weight changes by what the file says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_management as management
import comfy.utils
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from factories import random_vectors
from harness.host.runner import Loaded
from pack.bundles.bundle import Bundle
from pack.bundles.load import load_bundle
from pack.bundles.save import Container, save_bundle
from pack.nodes.host.bundle.apply import apply_bundle
from world import families

RANK = 2
Tensors = dict[str, Tensor]


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def patched(loaded: Any, bundle: Bundle) -> tuple[Tensors, list[str]]:
    """What a bundle adds to every weight, by the host's own arithmetic, and the notes."""
    model, clip, _, notes = apply_bundle(loaded.model, loaded.clip, bundle)
    weights = {**model.model.state_dict(), **clip.cond_stage_model.state_dict()}
    return {
        key: comfy.lora.calculate_weight(patches, weights[key].float().clone(), key)
        - weights[key].float()
        for key, patches in (model.patches | clip.patcher.patches).items()
    }, notes


def diffusers_lora(loaded: Any, layers: str = "") -> tuple[Tensors, Tensors]:
    """diffusers' names and PEFT's factors for each matrix of a UNet, and what they change."""
    weights = loaded.model.model.state_dict()
    tensors, changes = {}, {}
    for name, module in comfy.utils.unet_to_diffusers(
        loaded.model.model.model_config.unet_config
    ).items():
        key = f"diffusion_model.{module}"
        if key not in weights or weights[key].ndim != 2 or layers not in name or key in changes:
            continue
        rows, columns = weights[key].shape
        stem = f"unet.{name.removesuffix('.weight')}"
        up, down = draw(rows, RANK), draw(RANK, columns)
        tensors |= {f"{stem}.lora_B.weight": up, f"{stem}.lora_A.weight": down}
        changes[key] = up @ down
    return tensors, changes


def assert_same(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys() and len(wanted) > 1
    for key, change in wanted.items():
        torch.testing.assert_close(found[key], change, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("layers", ["attn1", ""])
def test_a_bundle_with_diffusers_names_keeps_every_layer(
    request: pytest.FixtureRequest, tmp_path: Path, family: str, layers: str
):
    """As OneTrainer writes it; also where no layer tells the family."""
    loaded = request.getfixturevalue(family)
    tensors, changes = diffusers_lora(loaded, layers)
    vectors = random_vectors(family, 1)
    tensors |= {f"bundle_emb.cat.{key}": rows for key, rows in vectors.items()}
    save_file(tensors, tmp_path / "x.safetensors", {"ot_branch": "master"})
    bundle = load_bundle(tmp_path / "x.safetensors")
    found, notes = patched(loaded, bundle)
    assert_same(found, changes)
    assert notes == [] and list(bundle.embeddings) == ["cat"]


@pytest.mark.parametrize("container", [Container.A1111, Container.HEADER, Container.ONETRAINER])
def test_a_bundle_of_a_text_encoder_alone_is_read_back(
    sd15: Loaded, tmp_path: Path, container: Container
):
    """In diffusers' names, which two formats know when they are in a header's bundle."""
    names = {
        f"clip_l.transformer.text_model.encoder.layers.{n}.self_attn.{m}_proj.weight":
        f"text_encoder.text_model.encoder.layers.{n}.self_attn.{m}_proj"
        for n in range(2)
        for m in "qkv"
    }  # fmt: skip
    lora, changes = {}, {}
    for place, (weight, stem) in enumerate(names.items()):
        up, down = draw(768, RANK, seed=place), draw(RANK, 768, seed=place)
        lora |= {f"{stem}.lora_B.weight": up, f"{stem}.lora_A.weight": down}
        changes[weight] = up @ down
    made = Bundle(family="", lora=lora, embeddings={"cat": random_vectors("sd15", 1)})
    save_bundle(made, tmp_path / "x.safetensors", container, None)
    bundle = load_bundle(tmp_path / "x.safetensors")
    found, notes = patched(sd15, bundle)
    assert_same(found, changes)
    assert notes == [] and list(bundle.embeddings) == ["cat"]


@pytest.fixture(scope="module", params=["flux", "qwenimage", "zimage", "sd3"])
def transformer(request: pytest.FixtureRequest, host: Any) -> Iterator[Loaded]:
    with torch.inference_mode():
        model, clip, vae = families.load(request.param)
    yield Loaded(model=model, clip=clip, vae=vae, path=host.base)
    management.unload_all_models()


@pytest.mark.parametrize("alpha", [None, 6.0])
def test_peft_s_adapter_of_a_transformer_is_what_the_host_makes_of_diffusers_file(
    transformer: Loaded, tmp_path: Path, alpha: float | None
):
    """The adapter's own prefix is known to the loaders of two families alone."""
    keys = comfy.lora.model_lora_keys_unet(transformer.model.model, {})
    weights = transformer.model.model.state_dict()
    layers = {
        stem.removeprefix("transformer."): weights[target]
        for stem, target in keys.items()
        if stem.startswith("transformer.") and isinstance(target, str) and target in weights
    }
    factors = {
        f"{name}.lora_{side}.weight": draw(*shape)
        for name, weight in layers.items()
        if weight.ndim == 2
        for side, shape in (("B", (len(weight), RANK)), ("A", (RANK, weight.shape[1])))
    }
    prefixed = {f"base_model.model.{key}": tensor for key, tensor in factors.items()}
    save_file(prefixed, tmp_path / "adapter_model.safetensors")
    if alpha:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": alpha}))
    found, notes = patched(transformer, load_bundle(tmp_path / "adapter_model.safetensors"))
    assert len(notes) == 1 and ("together with" in notes[0]) == bool(alpha)
    host = {f"transformer.{key}": tensor for key, tensor in factors.items()}
    if alpha:
        host |= {f"transformer.{name}.alpha": torch.tensor(alpha) for name in layers}
    wanted = {
        key: comfy.lora.calculate_weight(
            [(1.0, patch, 1.0, None, None)], weights[key].float().clone(), key
        )
        - weights[key].float()
        for key, patch in comfy.lora.load_lora(host, keys, log_missing=False).items()
    }
    assert_same(found, wanted)


KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"


def glora(stem: str, rows: int, columns: int, old: bool) -> Tensors:
    """LyCORIS' GLoRA, W' = W + W A + B, with its factors as they lie now or lay at first."""
    shapes = {
        "a1": (columns, RANK),
        "a2": (RANK, columns),
        "b1": (rows, RANK),
        "b2": (RANK, columns),
    }
    if old:
        shapes = {
            "a1": (RANK, columns),
            "a2": (columns, RANK),
            "b1": (RANK, columns),
            "b2": (rows, RANK),
        }
    made = {f"{stem}.{key}.weight": 0.1 * draw(*shape) for key, shape in shapes.items()}
    return made | {f"{stem}.alpha": torch.tensor(1.0)}


NORMS = {f"{KOHYA}_norm1.w_norm": draw(320), f"{KOHYA}_norm1.b_norm": draw(320, seed=2)}
KINDS = {
    "glora": glora(f"{KOHYA}_attn2_to_k", 320, 768, False),
    "old glora": glora(f"{KOHYA}_attn2_to_k", 320, 768, True),
    "norms": NORMS,
    "both": NORMS | glora(f"{KOHYA}_attn2_to_v", 320, 768, False),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("container", [None, Container.A1111, Container.HEADER, Container.LOOSE])
def test_glora_and_norms_act_as_the_host_s_own_loader_has_them(
    sd15: Loaded, tmp_path: Path, kind: str, container: Container | None
):
    path = tmp_path / "x.safetensors"
    save_file(KINDS[kind], path)
    bundle = load_bundle(path)
    if container:
        made = Bundle(
            family="sd15", lora=bundle.lora, embeddings={"cat": random_vectors("sd15", 1)}
        )
        path = tmp_path / "saved" / "x.safetensors"
        save_bundle(made, path, container, None)
        bundle = load_bundle(path)
        assert list(bundle.embeddings) == ["cat"]
    found, notes = patched(sd15, bundle)
    assert not any("fit no layer" in note for note in notes)
    weights = sd15.model.model.state_dict()
    keys = comfy.lora.model_lora_keys_unet(sd15.model.model, {})
    patches = comfy.lora.load_lora(KINDS[kind], keys)
    assert found.keys() == patches.keys() and all(change.any() for change in found.values())
    for key, patch in patches.items():
        whole = weights[key].float().clone()
        changed = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], whole, key)
        torch.testing.assert_close(found[key], changed - weights[key].float())
