"""What is sampled is what was trained: in the graph, from a file, by the host's own loaders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.samplers
import folder_paths
import pytest
import torch
from torch import Tensor

from factories import write_pictures
from harness.host.graphs import Graph
from harness.host.runner import Loaded
from harness.models.embeddings import clip_with_files
from pack.nodes.host.bundle.apply import apply_bundle
from pack.nodes.host.denoiser.port import HostDenoiser
from pack.nodes.host.text.port import HostTextEncoder
from pack.training.adapters.lora import LoraConfig
from pack.training.adapters.targets import matches
from pack.training.ports import Crop, Mention, Noised

RANK, ALPHA = 4, 2.0
PROMPT = "a photo of (embedding:{name}:1.2) on a table"
WHOLE = Crop(width=64, height=64, left=0, top=0, original_width=64, original_height=64)


@dataclass(frozen=True)
class Made:
    """One family's training run with everything that was sampled from it."""

    family: str
    name: str
    base: Loaded
    bundle: Any
    samples: dict[str, Tensor]


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def made(request, host, run_graph) -> Made:
    """Train with a large learning rate, save both forms in fp32, sample by every way there is."""
    family = request.param
    base, name = request.getfixturevalue(family), f"tok_{family}"
    write_pictures(host.base / "input" / "toks", ["a picture of TOK", "TOK on grass"])
    bundle, samples = train_and_sample(run_graph, family, name)
    use_output_folder(family)
    clip = clip_with_files(base.path, family, folder_paths.get_folder_paths("embeddings"))
    host.loaded["with_files"] = Loaded(model=base.model, clip=clip, vae=base.vae, path=base.path)
    samples |= sample_from_files(run_graph, family, name)
    del host.loaded["with_files"]
    return Made(family, name, base, bundle, samples)


def train_and_sample(run_graph, family: str, name: str) -> tuple[Any, dict[str, Tensor]]:
    graph, prompt = Graph(), PROMPT.format(name=name)
    base = graph.base(family)
    fast = graph.add("Pivotal_Optimizer", learning_rate=0.02).out()
    run = graph.train(
        base,
        "toks",
        concepts=graph.concept(name=name, pivot=0.75),
        adapter=graph.add("Pivotal_Lora", rank=RANK, alpha=ALPHA).out(),
        optimizer=fast,
        embedding_optimizer=fast,
        steps=4,
    )
    saved = {
        form: graph.add(
            "Pivotal_SaveBundle",
            bundle=run.out(),
            filename_prefix=f"loras/{family}/{form}",
            container=form,
            precision="fp32",
        )
        for form in ("a1111", "loose")
    }

    def loaded(bundle, text=prompt, **settings):
        node = graph.add(
            "Pivotal_LoadBundle", model=base[0], clip=base[1], bundle=bundle, **settings
        )
        return graph.sample(node.out(0), node.out(1), text)

    sampled = {
        "train": graph.sample(run.out(1), run.out(2), prompt),
        "connected": loaded(run.out()),
        "saved": loaded(saved["a1111"].out()),
        "base": graph.sample(base[0], base[1], "a photo of (dog dog:1.2) on a table"),
        "without LoRA": loaded(run.out(), strength_model=0.0, strength_clip=0.0),
        "without vectors": loaded(
            run.out(), "a photo of (dog dog:1.2) on a table", names=f"-{name}"
        ),
    }
    outputs = run_graph(graph)
    samples = {label: outputs[node, 0]["samples"] for label, node in sampled.items()}
    return outputs[run, 0], samples


def use_output_folder(family: str) -> None:
    """Look for LoRAs in the output folder, as the host's main.py does, and for embeddings too."""
    loras = Path(folder_paths.get_output_directory(), "loras")
    folder_paths.add_model_folder_path("loras", str(loras))
    folder_paths.add_model_folder_path("embeddings", str(loras / family))


def sample_from_files(run_graph, family: str, name: str) -> dict[str, Tensor]:
    graph, prompt = Graph(), PROMPT.format(name=name)
    model, clip, _ = graph.base("with_files")
    loader = graph.add(
        "Pivotal_LoadBundle",
        model=model,
        clip=graph.base(family)[1],
        file=f"loras/{family}/a1111_00001.safetensors",
    )
    sampled = {"file": graph.sample(loader.out(0), loader.out(1), prompt)}
    files = {"a1111": "a1111_00001.safetensors", "loose": "loose_00001/loose.safetensors"}
    for form, file in files.items():
        host = graph.add("LoraLoader", model=model, clip=clip, lora_name=f"{family}/{file}")
        sampled[f"host {form}"] = graph.sample(host.out(0), host.out(1), prompt)
    outputs = run_graph(graph)
    return {label: outputs[node, 0]["samples"] for label, node in sampled.items()}


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference in standard deviations of `b`."""
    return ((a - b).abs().max() / b.std()).item()


@pytest.mark.parametrize("other", ["base", "without LoRA", "without vectors"])
def test_the_training_shows_in_the_sample(made, other):
    assert distance(made.samples["train"], made.samples[other]) > 0.05


@pytest.mark.parametrize("way", ["connected", "saved", "file"])
def test_load_bundle_samples_what_train_concepts_gives(made, way):
    """Bit for bit: all of these hand the same fp32 factors to the host as patches."""
    assert torch.equal(made.samples[way], made.samples["train"])


@pytest.mark.parametrize("form", ["a1111", "loose"])
def test_the_hosts_own_loaders_sample_the_same(made, form):
    """Bit for bit: LoraLoader patches the same factors, the file holds the same vectors."""
    assert torch.equal(made.samples[f"host {form}"], made.samples["train"])


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    with torch.inference_mode(False), torch.enable_grad():
        yield


def adapters_of(made: Made, denoiser: HostDenoiser) -> dict[str, torch.nn.Module]:
    """The adapters that were trained, made anew from the bundle."""
    config, adapters = LoraConfig(rank=RANK, alpha=ALPHA), {}
    for layer in denoiser.layers():
        if matches(layer, config.targets):
            adapter = config.build(layer, torch.Generator())
            key = f"diffusion_model.{layer.name}"
            adapter.down.data = made.bundle.lora[f"{key}.lora_down.weight"].clone()
            adapter.up.data = made.bundle.lora[f"{key}.lora_up.weight"].clone()
            adapters[layer.name] = adapter
    assert 3 * len(adapters) == len(made.bundle.lora)
    return adapters


def first_step(model: Any) -> SimpleNamespace:
    """What the host's sampler feeds the network at the first of one steps, from its own noise."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(7))
    sampling = model.get_model_object("model_sampling")
    sigma = comfy.samplers.calculate_sigmas(sampling, "normal", 1)[:1]
    noisy = sampling.noise_scaling(sigma, noise.clone(), torch.zeros_like(noise), True)
    return SimpleNamespace(noisy=noisy.clone(), sigma=sigma.clone(), sampling=sampling)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_training_clone_predicts_what_the_sampler_sees(made, run_graph, checkpointing):
    """At most 1e-4: in training LoRA is a path beside the layer, in sampling a part of it."""
    graph = Graph()
    base = graph.base(made.family)
    loader = graph.add(
        "Pivotal_LoadBundle", model=base[0], clip=base[1], bundle=graph.give(made.bundle)
    )
    text = f"embedding:{made.name} in snow"
    sampled = graph.sample(loader.out(0), loader.out(1), text, steps=1)
    wanted = run_graph(graph)[sampled, 0]["samples"]
    with outside_inference_mode():
        step, raw = first_step(made.base.model), train_predict(made, checkpointing)
        denoised = step.sampling.calculate_denoised(step.sigma, raw, step.noisy)
        got = made.base.model.model.process_latent_out(denoised)
    assert distance(got, wanted) < 1e-4


def train_predict(made: Made, checkpointing: bool) -> Tensor:
    """The raw output in training, recorded as in a step, of the caption "TOK in snow"."""
    text = HostTextEncoder(made.base.clip)
    denoiser = HostDenoiser(made.base.model, checkpointing=checkpointing)
    vectors = {
        made.name: {
            key: torch.nn.Parameter(rows.clone())
            for key, rows in made.bundle.embeddings[made.name].items()
        }
    }
    step, adapters = first_step(made.base.model), adapters_of(made, denoiser)
    nothing = torch.zeros(1)
    noised = Noised(noisy=step.noisy, sigma=step.sigma, target=nothing, snr=nothing, gain=nothing)
    with text.attach(vectors), denoiser.attach(adapters):
        conditions = text.encode([(Mention(made.name), " in snow")])
        output = denoiser.predict(noised, conditions, [WHOLE])
    assert output.requires_grad
    return output.detach()


def test_a_caption_in_training_is_the_prompt_of_the_trained_clip(made):
    """At most 1e-5 with a graph, in which frozen norms are computed by other kernels."""
    _, clip, _, _ = apply_bundle(made.base.model, made.base.clip, made.bundle)
    wanted = clip.encode_from_tokens(
        clip.tokenize(rf"a photo \(embedding:{made.name}\), blue"),
        return_pooled=True,
        return_dict=True,
    )
    text = HostTextEncoder(made.base.clip)
    with outside_inference_mode(), text.attach(made.bundle.embeddings):
        got = text.encode([("a photo (", Mention(made.name), "), blue")])[0].tensors
    assert distance(got["cond"], wanted["cond"]) < 1e-5
    assert distance(got["pooled_output"], wanted["pooled_output"]) < 1e-5
