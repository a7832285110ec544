"""TriLoRA on the host: what it starts from, and that the saved LoRA acts as it was trained."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

from factories import write_pictures
from harness.host.graphs import Graph
from harness.host.runner import Loaded
from pack.bundles.bundle import Bundle
from pack.nodes.host.bundle.apply import apply_bundle
from pack.nodes.host.denoiser.port import HostDenoiser
from pack.nodes.host.digests import model_digest
from pack.nodes.host.text.port import HostTextEncoder
from pack.training.adapters import build_adapters, export_adapters
from pack.training.adapters.trilora import Core, Sigma, TriLoraConfig
from pack.training.ports import Crop

CROP = Crop(width=64, height=64, left=0, top=0, original_width=64, original_height=64)


def moved(config: TriLoraConfig, denoiser: HostDenoiser) -> dict:
    """Adapters whose zero matrix has been moved, as by training."""
    adapters = build_adapters(config, denoiser.layers(), seed=0)
    for number, adapter in enumerate(adapters.values()):
        torch.nn.init.normal_(adapter.a, 0, 0.1, generator=torch.Generator().manual_seed(number))
    return adapters


@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize("rank_out", [3, 6])
def test_the_saved_lora_predicts_what_the_three_factors_do(sd15: Loaded, core: Core, rank_out: int):
    config = TriLoraConfig(rank=4, rank_out=rank_out, core=core)
    with torch.inference_mode(False), torch.enable_grad():
        denoiser, text = HostDenoiser(sd15.model, checkpointing=False), HostTextEncoder(sd15.clip)
        adapters = moved(config, denoiser)
        lora = export_adapters(adapters, "diffusion_model")
        changed, _, _, _ = apply_bundle(
            sd15.model, sd15.clip, Bundle(family="sd15", lora=lora, embeddings={})
        )
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        noised = denoiser.noised(latents, torch.randn(latents.shape), torch.tensor([0.5]))
        with text.attach({}):
            conditions = [one.detach() for one in text.encode([("a dog",)])]
        with denoiser.attach(adapters), torch.no_grad():
            trained = denoiser.predict(noised, conditions, [CROP])
            base = denoiser.predict(noised, conditions, [CROP], adapted=False)
        loaded = HostDenoiser(changed, checkpointing=False)
        with loaded.attach({}), torch.no_grad():
            again = loaded.predict(noised, conditions, [CROP])
    assert (trained - base).std() > 0.01 * base.std()
    assert (trained - again).abs().max() < 1e-4 * base.std()


def test_the_core_starts_from_the_singular_values_of_the_hosts_weights(sd15: Loaded):
    with torch.inference_mode(False):
        denoiser = HostDenoiser(sd15.model, checkpointing=False)
        adapters = build_adapters(
            TriLoraConfig(rank=4, sigma=Sigma.PAPER), denoiser.layers(), seed=0
        )
        weights = dict(sd15.model.model.diffusion_model.named_parameters())
        for name, adapter in adapters.items():
            exact = torch.linalg.svdvals(weights[f"{name}.weight"].float())[:4]
            # Random weights have a flat spectrum, the hardest case for a randomized SVD.
            assert torch.allclose(adapter.c, exact, rtol=0.02)


def test_a_graph_swaps_one_node_to_train_it(host, run_graph, sd15: Loaded):
    write_pictures(host.base / "input" / "toks", ["a picture of TOK", "TOK on grass"])
    graph = Graph()
    adapter = graph.add("Pivotal_TriLora", rank=4, core="full").out()
    run = graph.train(graph.base("sd15"), "toks", concepts=graph.concept(), adapter=adapter)
    graph.keep(run.out(5))
    bundle = run_graph(graph)[run, 0]
    ups = [value for key, value in bundle.lora.items() if key.endswith("lora_up.weight")]
    assert ups and all(up.shape[1] == 4 for up in ups)


def test_the_core_starts_from_the_models_own_weights_whatever_another_clone_left(sd15: Loaded):
    with torch.inference_mode(False):
        config = TriLoraConfig(rank=4, sigma=Sigma.PAPER)
        before = build_adapters(config, HostDenoiser(sd15.model, checkpointing=False).layers(), 0)
        denoiser = HostDenoiser(sd15.model, checkpointing=False)
        lora = export_adapters(moved(config, denoiser), "diffusion_model")
        bundle = Bundle(family="sd15", lora=lora, embeddings={})
        changed, _, _, _ = apply_bundle(sd15.model, sd15.clip, bundle, strength_model=100.0)
        comfy.model_management.load_models_gpu([changed])
        after = build_adapters(config, HostDenoiser(sd15.model, checkpointing=False).layers(), 0)
    for name, adapter in before.items():
        assert torch.equal(adapter.c, after[name].c)


def test_a_run_is_the_same_run_whatever_another_clone_left(sd15: Loaded):
    with torch.inference_mode(False):
        before = model_digest(sd15.model)
        config = TriLoraConfig(rank=4)
        adapters = moved(config, HostDenoiser(sd15.model, checkpointing=False))
        lora = export_adapters(adapters, "diffusion_model")
        bundle = Bundle(family="sd15", lora=lora, embeddings={})
        changed, _, _, _ = apply_bundle(sd15.model, sd15.clip, bundle, strength_model=100.0)
        comfy.model_management.load_models_gpu([changed])
        assert model_digest(sd15.model) == before
        assert model_digest(changed) != before


def test_other_changes_of_a_model_make_it_another_one(sd15: Loaded):
    """The same layers at the same strength with other numbers, and another noise schedule."""
    name = "diffusion_model.out.2.weight"
    shape = dict(sd15.model.model.named_parameters())[name].shape
    with torch.inference_mode(False):
        found = {model_digest(sd15.model)}
        for value in (0.0, 0.5):
            patched = sd15.model.clone()
            patched.add_patches({name: (torch.full(shape, value),)}, 1.0)
            found.add(model_digest(patched))
        for kind in ("v_prediction", "eps"):
            (sampled,) = ModelSamplingDiscrete().patch(sd15.model, kind, zsnr=kind == "eps")
            found.add(model_digest(sampled))
    assert len(found) == 5
