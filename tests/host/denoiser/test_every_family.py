"""Each model family trains through the host's own network and encoders, with its own target."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import comfy.model_management as management
import comfy.sampler_helpers
import comfy.samplers
import pytest
import torch
from comfy.model_base import ModelType
from torch import Tensor, nn

from harness.host.measure import (
    SHORT,
    TOK,
    Batch,
    Ports,
    disagreement,
    draw,
    make_batch,
    probe,
    relative,
)
from harness.host.runner import Loaded
from pack.bundles.bundle import Bundle
from pack.nodes.host.bundle.apply import apply_bundle
from pack.nodes.host.dataset.survey import token_counter
from pack.nodes.host.denoiser.families import (
    check_clip,
    check_guidance,
    check_trainable,
    check_vae,
    family_of,
)
from pack.nodes.host.denoiser.port import HostDenoiser
from pack.nodes.host.run.drive import gradients
from pack.nodes.host.text.port import HostTextEncoder
from pack.training.adapters import MODEL, TEXT, Adapter, export_adapters
from pack.training.adapters.lora import LoraConfig
from pack.training.config import TrainConfig
from pack.training.data import TrainingData, draw_batch
from pack.training.dataset.batches import Batches
from pack.training.loop import batch_errors
from pack.training.objective import ObjectiveConfig
from pack.training.parts import Parts
from pack.training.ports import Layer
from pack.training.run import Run
from pack.training.words.concepts import Concept
from pack.training.words.vectors import initial_vectors
from world import families

LONGER = ("a photo of ", TOK, " in a garden with many red and green things on the grass")
TOLD = ("flux", "flux2dev")
"""Models with a guidance built in"""
CLOSE = 6e-3
"""Fp32 rounding and curvature over a finite difference's step; measured up to 0.005."""


@pytest.fixture(scope="module", params=list(families.TINY))
def name(request: pytest.FixtureRequest) -> str:
    """Of a tiny model: the family's name in bundles but for kinds that a family has besides."""
    return request.param


@pytest.fixture(scope="module")
def loaded(host: Any, name: str) -> Iterator[Loaded]:
    """Its tiny models, loaded under inference mode as a loader node would."""
    with torch.inference_mode():
        model, clip, vae = families.load(name)
    host.loaded[name] = Loaded(model=model, clip=clip, vae=vae, path=host.base)
    yield host.loaded[name]
    del host.loaded[name]
    management.unload_all_models()
    gc.collect()


def batch_of(name: str, *captions: Any) -> Batch:
    """Random latents of the family's shape."""
    batch = make_batch(captions)
    shape = (len(captions), *families.TINY[name].latent, 8, 8)
    noise, latents = (torch.randn(shape, generator=draw(n)) for n in (1, 2))
    return replace(batch, latents=latents, noise=noise)


def ports_of(loaded: Loaded, *, checkpointing: bool) -> Ports:
    """A concept, and a LoRA whose `up` is not zero on every Linear of the network."""
    text = HostTextEncoder(loaded.clip)
    denoiser = HostDenoiser(loaded.model, checkpointing=checkpointing, companions=text.companions)
    concept = Concept(placeholder="TOK", initial="dog", vectors=2)
    vectors, adapters = initial_vectors([concept], text, seed=0), adapters_of(denoiser.layers())
    return Ports(text=text, denoiser=denoiser, vectors=vectors, adapters=adapters)


def adapters_of(layers: Iterable[Layer]) -> dict[str, Adapter]:
    """A LoRA for every Linear, its `up` not zero."""
    linear = [one for one in layers if len(one.shape) == 2 and min(one.shape) > 2]
    adapters = {layer.name: LoraConfig(rank=2, alpha=2.0).build(layer, draw(3)) for layer in linear}
    for adapter in adapters.values():
        nn.init.normal_(adapter.up, std=0.02, generator=draw(4))
    return adapters


def test_the_host_finds_the_family_and_the_pack_knows_its_name(loaded: Loaded, name: str):
    assert type(loaded.model.model.model_config).__name__ == families.TINY[name].config
    assert family_of(loaded.model) == (families.TINY[name].family or name)
    check_trainable(loaded.model)
    check_clip(loaded.model, loaded.clip)
    check_vae(loaded.model, loaded.vae)


def test_gradients_agree_with_finite_differences(loaded: Loaded, name: str):
    """Into the rows of every encoder, and into the adapters of every layer that has a say."""
    batch = batch_of(name, SHORT)
    with gradients():
        ports = ports_of(loaded, checkpointing=False)
        with ports.text.attach(ports.vectors), ports.denoiser.attach(ports.adapters):
            grads = ports.gradients(batch)
            rows = len(ports.vectors["TOK"])
            found = list(zip(ports.parameters(), grads, strict=True))
            errors = {
                part: disagreement(
                    lambda: probe(ports.predict(batch)),
                    *zip(*pairs, strict=True),
                    step=0.03,
                    tries=1,
                )
                for part, pairs in {"rows": found[:rows], "adapters": found[rows:]}.items()
            }
    assert all(grad.abs().max() > 0 for grad in grads[:rows])
    # The last block's text stream leads nowhere in some families.
    assert sum(bool(grad.abs().max() > 0) for grad in grads) > 0.8 * len(grads)
    assert max(errors.values()) < CLOSE, errors


def test_checkpointing_changes_no_gradient(loaded: Loaded, name: str):
    """To rounding: what feeds several blocks is summed in another order."""
    batch, found = batch_of(name, SHORT), []
    with gradients():
        for checkpointing in (False, True):
            ports = ports_of(loaded, checkpointing=checkpointing)
            with ports.text.attach(ports.vectors), ports.denoiser.attach(ports.adapters):
                found.append([grad.clone() for grad in ports.gradients(batch)])
    assert relative(found[1], found[0]) < 1e-5


def test_captions_of_two_lengths_go_together(loaded: Loaded, name: str):
    """A batch is what its pictures are one by one, also where the host pads no text."""
    batch = batch_of(name, SHORT, LONGER, SHORT)
    with gradients(), torch.no_grad():
        ports = ports_of(loaded, checkpointing=False)
        with ports.text.attach(ports.vectors), ports.denoiser.attach(ports.adapters):
            whole = ports.predict(batch)
            alone = torch.cat([ports.predict(batch.single(place)) for place in range(3)])
    assert (whole - alone).abs().max() < 1e-4 * alone.std()


def host_output(loaded: Loaded, noisy: Tensor, sigma: Tensor, prompt: str) -> Tensor:
    """The network's output, solved from what the host's sampler calls denoised."""
    clip, model = loaded.clip, loaded.model
    encoded = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    conds = comfy.sampler_helpers.convert_cond(encoded)
    management.load_models_gpu([model])
    model.pre_run()
    try:
        conds = comfy.samplers.encode_model_conds(
            model.model.extra_conds, conds, noisy, noisy.device, "positive"
        )
        (denoised,) = comfy.samplers.calc_cond_batch(model.model, [conds], noisy, sigma, {})
    finally:
        model.cleanup()
    x, s = noisy.double(), sigma.double().reshape(-1, *[1] * (noisy.ndim - 1))
    if model.model.model_type is ModelType.V_PREDICTION:
        return (x / (s.square() + 1) - denoised.double()) * (s.square() + 1).sqrt() / s
    return (x - denoised.double()) / s


def closed_form(model: Any, x0: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy latents and their target: noise, v of Salimans and Ho 2022, or the straight flow."""
    s = sigma.reshape(-1, *[1] * (noise.ndim - 1))
    if model.model.model_type is ModelType.EPS:
        return x0 + s * noise, noise
    if model.model.model_type is ModelType.V_PREDICTION:
        return x0 + s * noise, (noise - s * x0) / (s.square() + 1).sqrt()
    return s * noise + (1 - s) * x0, noise - x0


@torch.no_grad()
def test_the_loss_is_the_closed_form_of_what_the_host_samples(loaded: Loaded, name: str):
    batch = batch_of(name, ("a red cat",))
    config = TrainConfig(steps=1, objective=ObjectiveConfig(min_snr_gamma=0))
    with gradients(), torch.no_grad():
        text = HostTextEncoder(loaded.clip)
        denoiser = HostDenoiser(loaded.model, checkpointing=True)
        data = TrainingData(
            latents=list(batch.latents),
            captions=batch.captions,
            crops=batch.crops,
            batches=Batches([0], [1], 1, seed=0),
        )
        parts = Parts(denoiser=denoiser, text=text, data=data, concepts=(), trained=())
        drawn = draw_batch(data, config.seed, 0, dropout=0.0)
        with text.attach({}), denoiser.attach({}):
            run = Run(parts, config)
            found, noised = batch_errors(run, drawn, run.conditions.of_step(drawn.captions))
        sigma = noised.sigma.double()
        x0 = loaded.model.model.process_latent_in(drawn.latents.double())
        noisy, target = closed_form(loaded.model, x0, drawn.noise.double(), sigma)
        output = host_output(loaded, noisy.float(), sigma.float(), "a red cat")
    wanted = (output - target).square().mean().item()
    assert found.mean().item() == pytest.approx(wanted, rel=1e-4)


@torch.no_grad()
def test_the_training_clone_predicts_what_a_sampler_of_its_bundle_does(loaded: Loaded, name: str):
    """Vectors and LoRAs on both models: in one a path beside each layer, in the other inside.

    To the fp16 of the encoders, whose weights the host rounds when it puts a LoRA inside.
    """
    batch = batch_of(name, ("a red ", TOK, " cat"))
    with gradients(), torch.no_grad():
        ports = ports_of(loaded, checkpointing=True)
        inner = adapters_of(ports.text.layers())
        with ports.text.attach(ports.vectors, inner), ports.denoiser.attach(ports.adapters):
            noised, got = batch.noised(ports.denoiser), ports.predict(batch)
        lora = export_adapters(ports.adapters, MODEL)
        lora |= export_adapters(inner, TEXT)
        bundle = Bundle(family=family_of(loaded.model), lora=lora, embeddings=ports.vectors)
        model, clip, _, notes = apply_bundle(loaded.model, loaded.clip, bundle)
        assert notes == []
        trained, base = replace(loaded, model=model, clip=clip), loaded
        wanted = host_output(trained, noised.noisy, noised.sigma, "a red embedding:TOK cat")
        plain = host_output(base, noised.noisy, noised.sigma, "a red dog dog cat")
    assert (got - wanted).abs().max() < 4e-3 * wanted.std()
    assert (plain - wanted).abs().max() > 1e-2 * wanted.std()


@pytest.mark.parametrize("caption", ["a photo of {}, red", "{} in a garden", "the cat {}"])
def test_a_caption_in_training_is_the_prompt_that_is_typed(loaded: Loaded, caption: str):
    """To the token: encoders of language models have words of their own for two blanks."""
    before, after = caption.split("{}")
    with gradients(), torch.no_grad():
        text = HostTextEncoder(loaded.clip)
        concept = Concept(placeholder="TOK", initial="dog", vectors=2)
        vectors = initial_vectors([concept], text, seed=0)
        bundle = Bundle(family=family_of(loaded.model), lora={}, embeddings=vectors)
        clip = apply_bundle(loaded.model, loaded.clip, bundle)[1]
        typed = clip.tokenize(caption.format("embedding:TOK"))
        wanted = clip.encode_from_tokens(typed, return_dict=True)["cond"]
        with text.attach(vectors):
            got = text.encode([(before, TOK, after)])[0].tensors["cond"]
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() < 1e-4 * wanted.std()


def test_the_tokens_of_a_caption_are_counted_whatever_the_encoders(loaded: Loaded):
    count = token_counter(loaded.clip)
    assert count("a red hat on (grass:2)") > count("a red hat") > 0


def test_a_guidance_is_told_to_models_that_have_one_built_in(loaded: Loaded, name: str):
    """Flux reads it; to the others it is refused in a sentence before any work."""
    objective, family = ObjectiveConfig(guidance=1.0), family_of(loaded.model)
    if name not in TOLD:
        with pytest.raises(ValueError, match=rf"\({family}\) has no built-in guidance: set it to"):
            check_guidance(loaded.model, objective, ())
        return
    check_guidance(loaded.model, objective, ())
    batch = batch_of(name, ("a red cat",))
    with gradients(), torch.no_grad():
        text = HostTextEncoder(loaded.clip)
        with text.attach({}):
            conditions = text.encode(batch.captions)
        outputs = []
        for guidance in (0.0, 3.5, 1.0):
            denoiser = HostDenoiser(loaded.model, checkpointing=False, guidance=guidance)
            with denoiser.attach({}):
                outputs.append(denoiser.predict(batch.noised(denoiser), conditions, batch.crops))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_negative_vectors_need_a_model_with_a_negative_prompt(loaded: Loaded, name: str):
    concept = Concept(placeholder="TOK", negative_vectors=2)
    if name in TOLD:
        with pytest.raises(ValueError, match='"TOK" has negative_vectors.*set them to 0'):
            check_guidance(loaded.model, ObjectiveConfig(), [concept])
    else:
        check_guidance(loaded.model, ObjectiveConfig(), [concept])
