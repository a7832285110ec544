"""Save Bundle: what it writes, what it warns of, and what the host's LoRA loader makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import comfy.lora
import folder_paths
import pytest
import torch
from comfy.cli_args import args
from safetensors import safe_open
from torch import Tensor

from factories import random_vectors
from harness.host.graphs import Graph
from pack.bundles.bundle import Bundle
from pack.training.adapters import build_adapters, export_adapters
from pack.training.adapters.lora import LoraConfig
from pack.training.ports import Layer

FORGE = "Forge refuses a LoRA with more than 12 embedding tensors"
DIFFUSERS = "diffusers refuses a LoRA file that holds embeddings"
CONFIG = LoraConfig(rank=3, alpha=1.5)


def bundle(loaded: Any, family: str, names: int) -> Bundle:
    """A LoRA on all attention layers and a number of names, without any training."""
    modules = loaded.model.model.diffusion_model.named_modules()
    layers = [
        Layer(name=name, shape=tuple(module.weight.shape))
        for name, module in modules
        if isinstance(module, torch.nn.Linear)
    ]
    lora = export_adapters(build_adapters(CONFIG, layers, 1), "diffusion_model")
    draw = torch.Generator().manual_seed(2)
    for key, tensor in lora.items():
        if key.endswith("lora_up.weight"):
            tensor.normal_(generator=draw)
    embeddings = {f"name{number}": random_vectors(family, number) for number in range(names)}
    return Bundle(family=family, lora=lora, embeddings=embeddings)


def save(run_graph: Any, made: Bundle, prefix: str, **settings: Any) -> tuple[Bundle, str]:
    """The bundle as it is in the files, and the report."""
    graph, extra = Graph(), settings.pop("extra", {})
    node = graph.add(
        "Pivotal_SaveBundle", bundle=graph.give(made), filename_prefix=prefix, **settings
    )
    kept = graph.keep(node.out(0)), graph.keep(node.out(1))
    outputs = run_graph(graph, **extra)
    return outputs[kept[0], 0], outputs[kept[1], 0]


def output(*parts: str) -> Path:
    return Path(folder_paths.get_output_directory(), *parts)


RECIPE = "recipe without paths and folder names"
WITH_WORKFLOW = {"extra_pnginfo": {"workflow": {"nodes": [{"id": 1, "text": "mine"}]}}}


@pytest.mark.parametrize("node", ["Save", "Convert", "Unpack"])
@pytest.mark.parametrize(("metadata", "flag"), [(RECIPE, False), ("everything", True)])
def test_a_workflow_that_is_not_to_be_shared_is_in_no_file(
    run_graph, monkeypatch, node: str, metadata: str, flag: bool
):
    made = Bundle(
        family="sd15",
        lora={},
        embeddings={"tok": random_vectors("sd15", 1)},
        workflow='{"nodes": ["mine"]}',
    )
    save(run_graph, made, "secret/kept", extra=WITH_WORKFLOW, metadata="everything")
    kept = max(output("secret").glob("kept*.safetensors"))
    assert b"mine" in kept.read_bytes()
    loras = Path(folder_paths.get_folder_paths("loras")[0])
    loras.mkdir(parents=True, exist_ok=True)
    shutil.copy(kept, loras / "kept.safetensors")
    monkeypatch.setattr(args, "disable_metadata", flag)
    settings = {"filename_prefix": f"secret/{node}{flag}", "metadata": metadata}
    if node == "Convert":
        settings["file"] = "loras/kept.safetensors"
    graph = Graph()
    more = {} if node == "Convert" else {"bundle": graph.give(made)}
    kept = graph.keep(graph.add(f"Pivotal_{node}Bundle", **more, **settings).out(node == "Save"))
    report = run_graph(graph, **WITH_WORKFLOW)[kept, 0]
    files = [path for path in output("secret").rglob(f"*{node}{flag}*") if path.is_file()]
    files += [p for d in output("secret").glob(f"{node}{flag}*") if d.is_dir() for p in d.iterdir()]
    assert files and all(b"mine" not in path.read_bytes() for path in files)
    assert ("--disable-metadata" in report) == flag
    assert ("does not hold the workflow" in report) != flag


@pytest.mark.parametrize(
    ("family", "names", "container", "expected"),
    [
        ("sd15", 0, "a1111", ()),
        ("sd15", 12, "a1111", (DIFFUSERS,)),
        ("sd15", 13, "a1111", (FORGE, DIFFUSERS)),
        ("sdxl", 6, "a1111", (DIFFUSERS,)),
        ("sdxl", 7, "a1111", (FORGE, DIFFUSERS)),
        ("sdxl", 7, "loose", ()),
    ],
)
def test_the_report_warns_of_programs_that_refuse_the_file(
    request, run_graph, family, names, container, expected
):
    made = bundle(request.getfixturevalue(family), family, names)
    _, report = save(run_graph, made, f"warn/{family}", container=container)
    for warning in (FORGE, DIFFUSERS):
        assert (warning in report) == (warning in expected)
    assert not expected or "'loose'" in report


def test_a_bundle_is_short_in_the_hosts_error_messages(sd15):
    """The host sends the text of all inputs of a node that fails to the browser."""
    assert len(str(bundle(sd15, "sd15", 16))) < 200


def test_a_bundle_is_read_back_as_it_was_saved(sd15, run_graph):
    made = bundle(sd15, "sd15", 2)
    for container in ("a1111", "loose"):
        saved, _ = save(run_graph, made, "same/x", container=container, precision="fp32")
        assert saved.embeddings.keys() == made.embeddings.keys()
        for name, vectors in made.embeddings.items():
            assert torch.equal(saved.embeddings[name]["clip_l"], vectors["clip_l"])
        assert len(saved.lora) == len(made.lora)


def test_saving_twice_never_overwrites(sd15, run_graph):
    made = bundle(sd15, "sd15", 1)
    _, first = save(run_graph, made, "twice/cat")
    before = output("twice", "cat_00001.safetensors").read_bytes()
    _, second = save(run_graph, made, "twice/cat")
    assert "cat_00001.safetensors" in first and "cat_00002.safetensors" in second
    assert output("twice", "cat_00001.safetensors").read_bytes() == before
    for number in (1, 2):
        _, report = save(run_graph, made, "twice/cat", container="loose")
        files = {path.name for path in output("twice", f"cat_{number:05}").iterdir()}
        assert files == {"cat.safetensors", "name0.safetensors"}
        assert all(file in report for file in files)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)],
)
def test_precision_is_that_of_the_lora_alone(sd15, run_graph, precision, dtype):
    save(run_graph, bundle(sd15, "sd15", 1), f"precision/{precision}", precision=precision)
    with safe_open(output("precision", f"{precision}_00001.safetensors"), "pt") as file:
        dtypes = {key: file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118
    assert dtypes.pop("bundle_emb.name0.clip_l") == torch.float32
    assert set(dtypes.values()) == {dtype}


def test_the_file_explains_itself(sd15, run_graph):
    workflow = {"nodes": [{"id": 1}], "version": 0.4}
    save(
        run_graph,
        bundle(sd15, "sd15", 1),
        "explains/x",
        extra={"extra_pnginfo": {"workflow": workflow}},
        metadata="everything",
    )
    with safe_open(output("explains", "x_00001.safetensors"), "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["workflow"]) == workflow
    assert "embedding:name0" in metadata["modelspec.usage_hint"]
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"


def deltas(model: Any) -> dict[str, Tensor]:
    """What a patched MODEL adds to each of its weights, by the host's own arithmetic."""
    weights = model.model.state_dict()
    found = {}
    for key, patches in model.patches.items():
        weight = torch.zeros_like(weights[key], dtype=torch.float32)
        found[key] = comfy.lora.calculate_weight(patches, weight, key)
    return found


def from_host_loader(run_graph: Any, family: str, file: str) -> Any:
    """MODEL of the host's LoraLoader."""
    folder_paths.add_model_folder_path("loras", str(output("loras")))
    graph = Graph()
    model, clip, _ = graph.base(family)
    node = graph.add("LoraLoader", model=model, clip=clip, lora_name=file)
    return run_kept(run_graph, graph, node)


def run_kept(run_graph: Any, graph: Graph, node: Any) -> Any:
    kept = graph.keep(node.out())
    return run_graph(graph)[kept, 0]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_hosts_lora_loader_applies_the_lora_half(request, run_graph, family, caplog):
    """Every layer gets alpha / rank * up @ down; the names are unknown keys to that loader."""
    made = bundle(request.getfixturevalue(family), family, 2)
    save(run_graph, made, f"loras/half_{family}", precision="fp32")
    caplog.clear()
    host = deltas(from_host_loader(run_graph, family, f"half_{family}_00001.safetensors"))
    assert "lora key not loaded: bundle_emb.name0.clip_l" in caplog.text
    for key, delta in host.items():
        layer = key.removesuffix(".weight")
        up, down = (made.lora[f"{layer}.lora_{side}.weight"] for side in ("up", "down"))
        torch.testing.assert_close(delta, CONFIG.alpha / CONFIG.rank * up @ down)
    assert 3 * len(host) == len(made.lora)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_load_bundle_applies_the_same_without_complaints(request, run_graph, family, caplog):
    made = bundle(request.getfixturevalue(family), family, 2)
    save(run_graph, made, f"loras/whole_{family}", precision="fp32")
    host = deltas(from_host_loader(run_graph, family, f"whole_{family}_00001.safetensors"))
    caplog.clear()
    graph = Graph()
    model, clip, _ = graph.base(family)
    file = f"loras/whole_{family}_00001.safetensors"
    node = graph.add("Pivotal_LoadBundle", model=model, clip=clip, file=file)
    ours = deltas(run_kept(run_graph, graph, node))
    assert "not loaded" not in caplog.text
    assert ours.keys() == host.keys()
    assert all(torch.equal(ours[key], host[key]) for key in host)
