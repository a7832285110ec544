"""The tiny checkpoints are what the host takes them for, and every stage of them works."""

from __future__ import annotations

import pytest
import torch

from world import checkpoints

pytestmark = pytest.mark.host
LAYER_BYTES = 2 * 12 * 768**2
"""The matrices of a layer of CLIP-L, in fp16"""


def draw(model, clip, vae):
    """Two sampling steps through the host's own nodes; the picture is (1, 64, 64, 3)."""
    import nodes

    positive = nodes.CLIPTextEncode().encode(clip, "a photo of a dog")[0]
    negative = nodes.CLIPTextEncode().encode(clip, "")[0]
    assert not torch.equal(positive[0][0], negative[0][0])
    latent = nodes.EmptyLatentImage().generate(64, 64)[0]
    sampled = nodes.KSampler().sample(
        model, 1, 2, 2.0, "euler", "normal", positive, negative, latent, 1.0
    )[0]
    return nodes.VAEDecode().decode(vae, sampled)[0]


def check(model, clip, vae, family):
    """The model is of the host's config class `family`, computes in fp32 and draws a picture."""
    assert type(model.model.model_config).__name__ == family
    assert model.model.get_dtype_inference() is torch.float32
    picture = draw(model, clip, vae)
    assert picture.shape == (1, 64, 64, 3)
    assert torch.isfinite(picture).all()
    assert 0.01 < picture.std() < 0.49


def load_by_node(path):
    import folder_paths

    import nodes

    folder_paths.add_model_folder_path("checkpoints", str(path.parent))
    return nodes.CheckpointLoaderSimple().load_checkpoint(path.name)


@torch.inference_mode()
def test_sd15_loads_by_the_plain_loader_and_draws(tmp_path):
    path = tmp_path / "tiny_sd15.safetensors"
    checkpoints.build_sd15(path)
    check(*load_by_node(path)[:3], "SD15")
    # Zero layers are holes: ten of twelve take hardly any room on the disk.
    assert path.stat().st_blocks * 512 < path.stat().st_size - 9 * LAYER_BYTES


@torch.inference_mode()
@pytest.mark.parametrize(
    ("build", "family"),
    [(checkpoints.build_sd15_short, "SD15"), (checkpoints.build_sdxl_short, "KOALA_700M")],
)
def test_short_variants_load_with_cut_encoders_and_draw(tmp_path, build, family):
    path = tmp_path / "short.safetensors"
    build(path)
    model, clip, vae = checkpoints.load_short(path)
    assert len(clip.cond_stage_model.clip_l.transformer.text_model.encoder.layers) <= 3
    check(model, clip, vae, family)


def test_one_seed_writes_one_file(tmp_path):
    first, again, other = (tmp_path / name for name in ("a", "b", "c"))
    checkpoints.build_sd15_short(first, seed=1)
    checkpoints.build_sd15_short(again, seed=1)
    checkpoints.build_sd15_short(other, seed=2)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()
