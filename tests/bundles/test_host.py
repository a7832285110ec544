"""What the host makes of the files by itself, without any node of ours."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from factories import lora, random_vectors
from pack.bundles.bundle import Bundle
from pack.bundles.files.safetensors import read_safetensors
from pack.bundles.save import Container, save_bundle

pytestmark = pytest.mark.host
LAYER = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k"
KOHYA = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture
def bundle() -> Bundle:
    pytest.importorskip("comfy")
    weights = lora({LAYER: (640, 768)}, alpha=2.0)
    return Bundle(family="sd15", lora=weights, embeddings={"my cat": random_vectors("sdxl", 0, 3)})


def test_the_host_loads_every_lora_key_and_warns_of_the_embeddings_alone(
    tmp_path: Path, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    from comfy.lora import load_lora

    (path,) = save_bundle(bundle, tmp_path / "b.safetensors", Container.A1111, torch.float32)
    tensors, _ = read_safetensors(path)
    with caplog.at_level(logging.WARNING):
        patches = load_lora(tensors, {KOHYA: f"{LAYER}.weight"})
    assert [record.getMessage() for record in caplog.records] == [
        "lora key not loaded: bundle_emb.my cat.clip_g",
        "lora key not loaded: bundle_emb.my cat.clip_l",
    ]
    up, down, alpha = patches[f"{LAYER}.weight"].weights[:3]
    assert torch.equal(up, bundle.lora[f"{LAYER}.lora_up.weight"])
    assert torch.equal(down, bundle.lora[f"{LAYER}.lora_down.weight"]) and alpha == 2.0


@pytest.mark.parametrize("encoders", [("clip_l",), ("clip_l", "clip_g")])
def test_the_host_finds_a_loose_embedding_by_its_file_name(
    tmp_path: Path, bundle: Bundle, encoders: tuple[str, ...]
) -> None:
    from comfy.sd1_clip import load_embed

    vectors = {key: bundle.embeddings["my cat"][key] for key in encoders}
    alone = Bundle(family="", lora=bundle.lora, embeddings={"my cat": vectors})
    save_bundle(alone, tmp_path / "b.safetensors", Container.LOOSE, torch.float16)
    for key, rows in vectors.items():
        found = load_embed("my_cat", str(tmp_path), rows.shape[1], key)
        assert torch.equal(found, rows)
