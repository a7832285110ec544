"""The base model of the sprite world is an ordinary SD1.5 checkpoint and draws what it is told."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from world import base, measure_base
from world.codec import LATENT_SCALE, latents_of, pixels_of
from world.compact import pack, unpack
from world.sprites import draw, held_out_scenes


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The base model through the plain loader, as (model, clip, vae)."""
    path = tmp_path_factory.mktemp("base") / "sprites.safetensors"
    with torch.inference_mode():
        base.build_base(path)
        return measure_base.load_base(path)[:3]


@pytest.fixture(scope="module")
def pixels():
    shake = torch.Generator().manual_seed(0)
    return torch.stack([draw(scene, shake) for scene in held_out_scenes(6)])


@pytest.mark.host
def test_the_host_takes_it_for_sd15_and_every_weight_arrives(loaded):
    model, clip, _ = loaded
    assert type(model.model.model_config).__name__ == "SD15"
    arrived = model.model.diffusion_model.state_dict()
    written = unpack(load_file(base.COMPACT))
    assert arrived.keys() == written.keys()
    assert all(torch.equal(arrived[key], value) for key, value in written.items())
    words = clip.cond_stage_model.clip_l.transformer.text_model.state_dict()
    dead = [key for key in words if ".layers.11." in key and words[key].dim() > 1]
    # The layers that are holes in the file are zero in memory, not left unset.
    assert dead
    assert not any(words[key].any() for key in dead)


@pytest.mark.host
@torch.inference_mode()
def test_it_draws_prompts_it_never_saw(loaded):
    scenes = held_out_scenes()[:10]
    pictures = measure_base.sample(*loaded, [scene.caption for scene in scenes])
    assert measure_base.count(pictures, scenes)["all"] >= 0.9


@pytest.mark.host
@torch.inference_mode()
def test_the_vae_is_the_written_formula_and_exact(loaded, pixels):
    vae = loaded[2]
    latents = vae.encode(pixels)
    assert torch.allclose(latents * LATENT_SCALE, latents_of(pixels), atol=1e-4)
    assert torch.allclose(vae.decode(latents).cpu(), pixels, atol=1e-4)


@pytest.mark.host
@torch.inference_mode()
def test_the_text_encoder_tells_words_and_their_roles_apart(loaded):
    clip = loaded[1]
    texts = ("a red moon on a blue background", "a blue moon on a red background")
    one, other = (clip.encode_from_tokens(clip.tokenize(text))[0] for text in texts)
    likeness = torch.nn.functional.cosine_similarity(one, other, dim=-1)
    # Tokens: start, a, red, moon, on, a, blue, background.
    assert torch.all(likeness[[0, 1]] > 0.999)
    assert torch.all(likeness[[2, 6]] < 0.7)
    same_word_other_role = torch.nn.functional.cosine_similarity(one[2], other[6], dim=0)
    assert 0.4 < same_word_other_role < 0.9


def test_latents_have_unit_variance_and_lose_nothing(pixels):
    assert torch.allclose(pixels_of(latents_of(pixels)), pixels, atol=1e-6)
    assert 0.8 < latents_of(pixels).std() < 1.2


def test_packing_moves_a_weight_by_half_a_step_at_most():
    weights = {"matrix": torch.randn(5, 7, 3, 3), "bias": torch.randn(5)}
    again = unpack(pack(weights))
    step = weights["matrix"].flatten(1).abs().amax(1) / 127
    error = (again["matrix"] - weights["matrix"]).flatten(1).abs().amax(1)
    assert torch.all(error <= 0.5001 * step)
    assert torch.allclose(again["bias"], weights["bias"], rtol=1e-3)


def test_the_compact_file_is_small_and_is_the_one_that_was_measured():
    assert base.COMPACT.stat().st_size < 24e6
    record = json.loads(measure_base.RESULT.read_text())
    assert record["unet_sha256"] == hashlib.sha256(base.COMPACT.read_bytes()).hexdigest()
    assert record["all"] >= 0.95
