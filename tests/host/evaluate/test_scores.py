"""CLIP Score and Frechet Distance: the host's features against those of transformers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.sd
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.host.graphs import Graph
from harness.host.runner import GraphFailed, Host, Loaded
from pack.nodes.host.evaluate.features import CHUNK, picture_features, text_features

VISION = {
    "hidden_size": 32, "image_size": 32, "intermediate_size": 64, "num_attention_heads": 2,
    "num_channels": 3, "num_hidden_layers": 24, "patch_size": 8, "projection_dim": 768,
    "hidden_act": "quick_gelu", "model_type": "clip_vision_model",
}  # fmt: skip


@pytest.fixture(scope="module")
def reference_vision() -> Any:
    """A small random CLIP vision model of transformers; fp16, as the host keeps it, holds it."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(3)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)).eval()
    for parameter in model.parameters():
        parameter.data = (0.1 * torch.randn(parameter.shape)).half().float()
    return model


@pytest.fixture(scope="module")
def vision(host: Host, reference_vision: Any) -> Any:
    """The same weights in the host's own class: its loader takes whole ViT-L and larger only."""
    with torch.inference_mode():
        model = comfy.clip_vision.ClipVisionModel(VISION)
        missing, unexpected = model.load_sd(reference_vision.state_dict())
    assert not missing and set(unexpected) <= {"vision_model.embeddings.position_ids"}
    return model


def noise_pictures(count: int, seed: int, side: int = 32) -> Tensor:
    """Pictures of whole gray levels, as files hold them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, side, side, 3), generator=generator) / 255


def transformers_features(model: Any, pictures: Tensor) -> Tensor:
    from transformers import CLIPImageProcessor

    size = VISION["image_size"]
    processor = CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    arrays = [np.asarray((255 * picture).round().to(torch.uint8)) for picture in pictures]
    with torch.no_grad():
        return model(**processor(images=arrays, return_tensors="pt")).image_embeds


def test_picture_features_are_those_of_transformers(vision, reference_vision):
    pictures = noise_pictures(CHUNK + 3, seed=1)
    with torch.inference_mode():
        found = picture_features(vision, pictures)
    expected = transformers_features(reference_vision, pictures)
    assert found.shape == (CHUNK + 3, 768)
    torch.testing.assert_close(found, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


@pytest.fixture(scope="module")
def text_file(sd15: Loaded, host: Host) -> Path:
    """The fixture's text encoder as a file of its own, with a projection."""
    prefix = "cond_stage_model.transformer."
    tensors = {
        key.removeprefix(prefix): value
        for key, value in load_file(sd15.path).items()
        if key.startswith(prefix)
    }
    generator = torch.Generator().manual_seed(4)
    tensors["text_projection.weight"] = 0.05 * torch.randn(768, 768, generator=generator).half()
    path = host.base / "clip_l.safetensors"
    save_file(tensors, path)
    return path


def load_text(path: Path) -> Any:
    options = {"model_config": {"num_hidden_layers": 2}}
    with torch.inference_mode():
        return comfy.sd.load_clip([str(path)], model_options=options)


@pytest.fixture(scope="module")
def text_encoder(text_file: Path) -> Any:
    return load_text(text_file)


TEXTS = ["a photo of a dog", "(a red square:1.5) on grass", "a photo of a dog"]


def transformers_texts(path: Path, clip: Any) -> Tensor:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=2, num_attention_heads=12,
        projection_dim=768, hidden_act="quick_gelu", eos_token_id=49407,
    )  # fmt: skip
    model = CLIPTextModelWithProjection(config).eval()
    tensors = {key: value.float() for key, value in load_file(path).items()}
    missing, _ = model.load_state_dict(tensors, strict=False)
    assert not [key for key in missing if "position_ids" not in key]
    tokenizer = clip.tokenizer.clip_l.tokenizer
    tokens = tokenizer(TEXTS, padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        return model(input_ids=tokens["input_ids"]).text_embeds


def test_text_features_are_those_of_transformers(text_encoder, text_file: Path):
    with torch.inference_mode():
        found = text_features(text_encoder, TEXTS, 768)
    expected = transformers_texts(text_file, text_encoder)
    torch.testing.assert_close(found, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


def test_a_text_encoder_conditions_as_before_after_it_was_scored_with(text_encoder):
    with torch.inference_mode():
        tokens = text_encoder.tokenize("a dog")
        before = text_encoder.encode_from_tokens(tokens, return_pooled=True)[1]
        text_features(text_encoder, ["a dog"], 768)
        after = text_encoder.encode_from_tokens(tokens, return_pooled=True)[1]
    assert torch.equal(before, after)


def test_the_clip_of_a_checkpoint_has_no_projection_and_is_refused(sd15: Loaded):
    with pytest.raises(ValueError, match="no text projection, which checkpoints leave out"):
        text_features(sd15.clip, ["a dog"], 768)


def test_sdxl_is_scored_by_the_pooled_text_that_the_host_conditions_with(sdxl: Loaded):
    with torch.inference_mode():
        found = text_features(sdxl.clip, ["a dog"], 1280)
        tokens = sdxl.clip.tokenize("a dog")
        pooled = sdxl.clip.encode_from_tokens(tokens, return_pooled=True)[1]
    assert torch.equal(found, pooled.float())


def test_a_text_file_without_a_projection_is_refused(text_file: Path, tmp_path: Path):
    tensors = load_file(text_file)
    del tensors["text_projection.weight"]
    save_file(tensors, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="no text projection"):
        text_features(load_text(tmp_path / "bare.safetensors"), ["a dog"], 768)


def test_clips_of_two_kinds_are_refused(text_encoder):
    with pytest.raises(ValueError, match="text embeddings 768 wide .* image embeddings 1024"):
        text_features(text_encoder, ["a dog"], 1024)


def score(graph: Graph, vision: Any, pictures: Tensor, **inputs: Any):
    given = {
        name: value if isinstance(value, str) else graph.give(value)
        for name, value in inputs.items()
    }
    node = graph.add(
        "Pivotal_ClipScore", clip_vision=graph.give(vision), images=graph.give(pictures), **given
    )
    return node


def test_clip_t_is_the_mean_cosine_of_each_picture_and_its_prompt(
    run_graph, vision, reference_vision, text_encoder, text_file
):
    pictures, graph = noise_pictures(3, seed=5), Graph()
    node = score(graph, vision, pictures, prompts="\n".join(TEXTS), clip=text_encoder)
    outputs = run_graph(graph)
    images = transformers_features(reference_vision, pictures)
    expected = torch.cosine_similarity(images, transformers_texts(text_file, text_encoder))
    assert outputs[node, 1] == pytest.approx(100 * expected.mean().item(), abs=0.01)
    assert outputs[node, 0] == pytest.approx(2.5 * expected.clamp(min=0).mean().item(), abs=0.0005)
    assert "CLIP-T of 3 images, each with its prompt" in outputs[node, 2]


def test_clip_i_is_the_mean_cosine_of_all_pairs_of_pictures(run_graph, vision, reference_vision):
    pictures, references, graph = noise_pictures(3, seed=6), noise_pictures(2, seed=7), Graph()
    node = score(
        graph, vision, pictures, against="reference pictures (CLIP-I)", references=references
    )
    outputs = run_graph(graph)
    made, known = (transformers_features(reference_vision, x) for x in (pictures, references))
    expected = torch.cosine_similarity(made[:, None], known[None], dim=-1).mean().item()
    assert outputs[node, 1] == pytest.approx(100 * expected, abs=0.01)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"prompts": "a"}, "CLIP-T compares with prompts: connect the text encoder"),
        ({"against": "reference pictures (CLIP-I)"}, "connect them to references"),
    ],
)
def test_a_score_without_its_other_side_is_refused(run_graph, vision, inputs, sentence):
    graph = Graph()
    score(graph, vision, noise_pictures(2, seed=1), **inputs)
    with pytest.raises(GraphFailed, match=sentence):
        run_graph(graph)


def test_two_prompts_for_three_pictures_are_refused(run_graph, vision, text_encoder):
    graph = Graph()
    score(graph, vision, noise_pictures(3, seed=1), prompts="a\nb", clip=text_encoder)
    with pytest.raises(GraphFailed, match="There are 2 prompts and 3 images"):
        run_graph(graph)


def test_a_vision_model_without_an_embedding_of_the_picture_is_refused(host: Host):
    siglip = {**VISION, "model_type": "siglip_vision_model"}
    del siglip["projection_dim"]
    model = comfy.clip_vision.ClipVisionModel(siglip)
    for parameter in model.model.parameters():
        torch.nn.init.zeros_(parameter)
    with pytest.raises(ValueError, match="load a CLIP vision model such as CLIP-ViT-L"):
        picture_features(model, noise_pictures(1, seed=0))


def test_the_frechet_distance_is_normalized_by_the_base_models(run_graph, vision, reference_vision):
    references = noise_pictures(6, seed=8)
    images, base = 0.5 * references + 0.2, noise_pictures(6, seed=9) ** 3
    images, base = (torch.round(255 * x) / 255 for x in (images, base))
    graph = Graph()
    sockets = {"images": images, "references": references, "base_images": base}
    given = {name: graph.give(value) for name, value in sockets.items()}
    node = graph.add("Pivotal_FrechetDistance", clip_vision=graph.give(vision), **given)
    alone = graph.add(
        "Pivotal_FrechetDistance", clip_vision=graph.give(vision),
        images=given["images"], references=given["references"],
    )  # fmt: skip
    outputs = run_graph(graph)
    features = {k: transformers_features(reference_vision, v) for k, v in sockets.items()}
    expected = {
        name: symmetric_frechet(features[name], features["references"])
        for name in ("images", "base_images")
    }
    assert outputs[node, 0] == pytest.approx(expected["images"], rel=1e-3)
    assert outputs[node, 1] == pytest.approx(expected["images"] / expected["base_images"], rel=2e-3)
    assert math.isnan(outputs[alone, 1])
    assert outputs[alone, 0] == outputs[node, 0]


def symmetric_frechet(first: Tensor, second: Tensor) -> float:
    """Heusel et al. with numpy's eigenvalues."""
    a, b = first.double().numpy(), second.double().numpy()
    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(c1)
    half = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(half @ c2 @ half).clip(min=0)).sum()
    gap = a.mean(axis=0) - b.mean(axis=0)
    return float(gap @ gap + np.trace(c1) + np.trace(c2) - 2 * cross)
