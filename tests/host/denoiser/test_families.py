"""SD1.5 and SDXL do not mix: every pair of another family is refused in a sentence."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import comfy.supported_models
import pytest
import torch
from safetensors.torch import save_file

from factories import lora, random_vectors, write_pictures
from harness.host.graphs import Graph
from harness.host.runner import GraphFailed
from pack.bundles.bundle import Bundle
from pack.nodes.host.denoiser.families import check_trainable, family_of

CONTEXT = {"sd15": 768, "sdxl": 2048}
PAIRS = [("sd15", "sdxl"), ("sdxl", "sd15")]
FLUX = "diffusion_model.double_blocks.0.img_attn.proj"


@pytest.fixture(scope="module", autouse=True)
def both(sd15, sdxl, host) -> None:
    write_pictures(host.base / "input" / "families", ["a TOK"])


def layer_of(host: Any, family: str) -> str:
    """A layer in the tiny model of a family that reads the text."""
    modules = host.loaded[family].model.model.diffusion_model.named_modules()
    return next(name for name, _ in modules if name.endswith("attn2.to_k"))


def layer(host: Any, made_for: str, on: str) -> dict[str, torch.Tensor]:
    return lora({f"diffusion_model.{layer_of(host, on)}": (320, CONTEXT[made_for])}, alpha=2.0)


def bundle(host: Any, made_for: str, on: str, what: str) -> Bundle:
    """A bundle of one family whose layer has a name that the other's model knows, too."""
    return Bundle(
        family=made_for,
        lora=layer(host, made_for, on) if what != "names" else {},
        embeddings={"cat": random_vectors(made_for, 1)} if what != "LoRA" else {},
    )


def load(graph: Graph, on: str, made: Bundle | str, *, clip_of: str = "") -> Any:
    """Load Bundle on a family's MODEL, with a bundle or with the file of one."""
    given = {"file": made} if isinstance(made, str) else {"bundle": graph.give(made)}
    clip = graph.base(clip_of or on)[1]
    return graph.add("Pivotal_LoadBundle", model=graph.base(on)[0], clip=clip, **given)


def refusal(run_graph: Any, *args: Any, **settings: Any) -> str:
    """The sentence of Load Bundle."""
    graph = Graph()
    graph.keep(load(graph, *args, **settings).out())
    with pytest.raises(GraphFailed) as caught:
        run_graph(graph)
    assert caught.value.kind == "ValueError"
    return str(caught.value)


@pytest.mark.parametrize("what", ["both", "names", "LoRA"])
@pytest.mark.parametrize(("made_for", "on"), PAIRS)
def test_a_bundle_of_another_family_is_refused(host, run_graph, made_for, on, what):
    sentence = refusal(run_graph, on, bundle(host, made_for, on, what))
    assert f"The bundle was made for {made_for} and the MODEL is {on}" in sentence
    assert f"connect a MODEL and a CLIP of {made_for}, or choose another bundle" in sentence


@pytest.mark.parametrize("what", ["both", "names", "LoRA"])
@pytest.mark.parametrize(("made_for", "on"), PAIRS)
def test_a_file_of_another_tool_is_told_by_its_tensors(host, run_graph, made_for, on, what):
    """No header says the family: the width of the text, or the encoders of the names do."""
    made = bundle(host, made_for, on, what)
    folder = host.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    names = {
        f"bundle_emb.cat.{key}": rows
        for vectors in made.embeddings.values()
        for key, rows in vectors.items()
    }
    save_file({**made.lora, **names}, folder / "foreign.safetensors")
    sentence = refusal(run_graph, on, "loras/foreign.safetensors")
    assert f"The bundle was made for {made_for} and the MODEL is {on}" in sentence


@pytest.mark.parametrize(("made_for", "on"), PAIRS)
def test_a_lora_of_no_known_family_is_refused_by_its_sizes(host, run_graph, made_for, on):
    made = replace(bundle(host, made_for, on, "LoRA"), family="")
    sentence = refusal(run_graph, on, made)
    layer = f"diffusion_model.{layer_of(host, on)}.weight"
    sizes = f"a layer of 320 x {CONTEXT[made_for]}, which is 320 x {CONTEXT[on]} here"
    assert f"The bundle's LoRA for {layer} is made for {sizes}" in sentence
    assert "the bundle belongs to another model family" in sentence


def test_a_lora_without_a_layer_of_the_model_is_refused(run_graph):
    made = Bundle(family="", lora=lora({FLUX: (320, 320)}), embeddings={})
    sentence = refusal(run_graph, "sd15", made)
    assert "None of the bundle's LoRA fits this model" in sentence
    assert "another model family" in sentence


def test_names_for_an_encoder_that_the_clip_lacks_are_refused(host, run_graph):
    made = replace(bundle(host, "sdxl", "sd15", "names"), family="")
    sentence = refusal(run_graph, "sd15", made)
    assert '"cat" has vectors for clip_g, clip_l and this CLIP has clip_l' in sentence
    assert "another model family" in sentence


def test_a_clip_of_another_family_beside_the_right_model_is_refused(host, run_graph):
    made = bundle(host, "sdxl", "sdxl", "both")
    sentence = refusal(run_graph, "sdxl", made, clip_of="sd15")
    assert '"cat" has vectors for clip_g, clip_l and this CLIP has clip_l' in sentence


def test_an_encoder_without_vectors_is_reported(host, run_graph):
    """Nobody says that they are for SD1.5, so half of the encoders is better than none."""
    made = replace(bundle(host, "sd15", "sdxl", "names"), family="")
    graph = Graph()
    kept = graph.keep(load(graph, "sdxl", made).out(3))
    assert "cat has no vectors for clip_g." in run_graph(graph)[kept, 0]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_bundle_of_the_same_family_is_loaded(host, run_graph, family):
    graph = Graph()
    kept = graph.keep(load(graph, family, bundle(host, family, family, "both")).out(2))
    assert run_graph(graph)[kept, 0] == "embedding:cat"


@pytest.mark.parametrize(("model_of", "clip_of"), PAIRS)
def test_training_refuses_a_clip_of_another_family(host, run_graph, model_of, clip_of):
    graph = Graph()
    model, _, vae = graph.base(model_of)
    clip = graph.base(clip_of)[1]
    run = graph.train((model, clip, vae), "families", concepts=graph.concept(), run_name="mixed")
    graph.keep(run.out(5))
    with pytest.raises(GraphFailed) as caught:
        run_graph(graph)
    sentence = str(caught.value)
    assert f"conditioning {CONTEXT[clip_of]} wide and the MODEL ({model_of}) takes" in sentence
    assert "connect the CLIP that belongs to the MODEL" in sentence
    assert not (host.base / "output" / "pivotal" / "mixed").exists()


def test_kinds_of_a_family_have_its_name(host):
    """The tiny SDXL is a KOALA; SD2 has kinds of its own as well."""
    assert family_of(host.loaded["sd15"].model) == "sd15"
    assert family_of(host.loaded["sdxl"].model) == "sdxl"
    for name, kind in {"sd15": "SD15_instructpix2pix", "sd2": "SD21UnclipL"}.items():
        config = object.__new__(getattr(comfy.supported_models, kind))
        assert family_of(SimpleNamespace(model=SimpleNamespace(model_config=config))) == name


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("Anima", "operator of ComfyUI that has no gradient"),
        ("SAM31", "finds objects and draws no images"),
        ("StableAudio", "makes sound and no images"),
        ("SD_X4Upscaler", "sees a small one of each"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_with_the_reason(kind, sentence):
    config = object.__new__(getattr(comfy.supported_models, kind))
    config.unet_config = {}
    base = SimpleNamespace(model_config=config, latent_format=type(config).latent_format())
    with pytest.raises(ValueError, match=f"cannot be trained: .*{sentence}. Connect another MODEL"):
        check_trainable(SimpleNamespace(model=base))
