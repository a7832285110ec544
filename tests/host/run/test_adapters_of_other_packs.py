"""A pack of somebody else brings kinds of adapters: they train, are saved and are read back.

Its one file lies outside of this tree and is loaded by ComfyUI as any custom node.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import folder_paths
import pytest
import torch
from torch import Tensor

import nodes
from factories import write_pictures
from harness.host.graphs import Graph
from harness.host.runner import Loaded
from pack.bundles.bundle import Bundle
from pack.nodes.host.denoiser.port import HostDenoiser
from pack.training.adapters import MODEL, build_chosen, choose_layers

# It finds this pack by one of its nodes, since nothing knows the name of the folder it lies in.
OTHER_PACK = '''
import importlib
from dataclasses import dataclass

import torch
from comfy_api.latest import ComfyExtension, io
from torch import nn

import nodes

PIVOTAL = nodes.NODE_CLASS_MAPPINGS["Pivotal_Lora"].__module__.partition(".nodes.")[0]
base = importlib.import_module(f"{PIVOTAL}.training.adapters.base")
factors = importlib.import_module(f"{PIVOTAL}.training.adapters.factors")


class Whole(base.Adapter):
    """The change of a weight as it is, which ComfyUI applies."""

    suffixes = ("diff",)

    def __init__(self, layer):
        super().__init__()
        self.conv, self.delta = layer.conv, nn.Parameter(torch.zeros(layer.shape))

    def forward(self, x):
        return factors.apply_weight(x, self.delta.to(x.dtype), self.conv)

    def tensors(self):
        return {"diff": self.delta}


class Scales(base.Adapter):
    """A factor for each output, which ComfyUI does not know."""

    suffixes = ("vera_lambda_b",)

    def __init__(self, layer, start):
        super().__init__()
        self.scales = nn.Parameter(torch.full(layer.shape[:1], start))

    def around(self, frozen, x):
        y = frozen(x)
        return y + y * self.scales.to(y.dtype)

    def tensors(self):
        return {"vera_lambda_b": self.scales}


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class WholeConfig(base.AdapterConfig):
    def build(self, layer, draw):
        return Whole(layer)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ScalesConfig(base.AdapterConfig):
    start: float = 0.0

    def build(self, layer, draw):
        return Scales(layer, self.start)


def schema(name, inputs):
    return io.Schema(
        node_id=name, inputs=inputs, outputs=[io.Custom("PIVOTAL_ADAPTER").Output()]
    )


class WholeNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("Other_Whole", [io.String.Input("patterns", default="")])

    @classmethod
    def execute(cls, patterns):
        return io.NodeOutput(WholeConfig(patterns=patterns))


class ScalesNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("Other_Scales", [io.Float.Input("start", default=0.0)])

    @classmethod
    def execute(cls, start):
        return io.NodeOutput(ScalesConfig(start=start, text_encoder=True))


class Extension(ComfyExtension):
    async def get_node_list(self):
        return [WholeNode, ScalesNode]


async def comfy_entrypoint():
    return Extension()
'''


@pytest.fixture(scope="module", autouse=True)
def other_pack(host, sd15: Loaded, tmp_path_factory) -> None:
    file = tmp_path_factory.mktemp("custom_nodes") / "other_pack.py"
    file.write_text(OTHER_PACK, encoding="utf-8")
    assert asyncio.run(nodes.load_custom_node(str(file)))
    # As the host's main.py does.
    saved = Path(folder_paths.get_output_directory(), "loras")
    folder_paths.add_model_folder_path("loras", str(saved))
    write_pictures(host.base / "input" / "toks", ["a picture of TOK", "TOK on grass"])


def made(run_graph, kind: str, **settings: Any) -> SimpleNamespace:
    """A run with the other pack's node, its bundle saved and loaded again, and samples of it."""
    graph = Graph()
    model, clip, vae = graph.base("sd15")
    fast = graph.add("Pivotal_Optimizer", learning_rate=0.01).out()
    adapter = graph.add(kind, **settings).out()
    run = graph.train(
        (model, clip, vae),
        "toks",
        concepts=graph.concept(pivot=0.5),
        adapter=adapter,
        optimizer=fast,
        steps=4,
        run_name=kind,
    )
    saved = graph.add(
        "Pivotal_SaveBundle", bundle=run.out(), filename_prefix=f"loras/{kind}", precision="fp32"
    )
    graph.keep(saved.out(1))
    first = run_graph(graph)
    loading = Graph()
    model, clip, _ = loading.base("sd15")
    file = f"loras/{kind}_00001.safetensors"
    opened = loading.add("Pivotal_OpenBundle", file=file)
    loaded = loading.add("Pivotal_LoadBundle", model=model, clip=clip, file=file)
    samples = {
        "loaded": loading.sample(loaded.out(0), loaded.out(1), "a dog on grass"),
        "base": loading.sample(model, clip, "a dog on grass"),
    }
    loading.keep(opened.out(1))
    loading.keep(loaded.out(3))
    second = run_graph(loading)
    return SimpleNamespace(
        graph=graph,
        run=run,
        config=first[adapter[0], 0],
        bundle=first[run, 0],
        train_report=first[run, 5],
        opened=second[opened, 0],
        report=second[loaded, 3],
        samples={name: second[node, 0]["samples"] for name, node in samples.items()},
    )


@pytest.fixture(scope="module")
def whole(other_pack, run_graph) -> SimpleNamespace:
    return made(run_graph, "Other_Whole", patterns="-attn1")


@pytest.fixture(scope="module")
def scales(other_pack, run_graph) -> SimpleNamespace:
    return made(run_graph, "Other_Scales")


def as_trained(run_graph, sd15: Loaded, one: SimpleNamespace) -> Tensor:
    """What the trained model itself samples: its adapters beside the frozen layers."""
    denoiser = HostDenoiser(sd15.model, checkpointing=False)
    chosen = choose_layers(one.config, denoiser.layers())[MODEL]
    adapters = build_chosen(one.config, chosen, seed=0)
    for name, adapter in adapters.items():
        ((end, parameter),) = adapter.tensors().items()
        parameter.data = one.bundle.lora[f"diffusion_model.{name}.{end}"].clone()
    with torch.inference_mode(False), denoiser.attach(adapters), denoiser.sampling() as clone:
        graph = Graph()
        sampled = graph.sample(graph.give(clone), graph.base("sd15")[1], "a dog on grass")
        return run_graph(graph)[sampled, 0]["samples"]


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference in standard deviations of `b`."""
    return ((a - b).abs().max() / b.std()).item()


def test_it_learns_on_the_layers_that_its_patterns_choose(whole: SimpleNamespace):
    lora = whole.bundle.lora
    assert lora and all(key.endswith(".diff") and "attn2" in key for key in lora)
    assert all(tensor.abs().max() > 0 for tensor in lora.values())
    assert whole.bundle.recipe["adapter"]["kind"] == "WholeConfig"
    assert "rank" not in whole.bundle.recipe["adapter"]


def test_what_is_loaded_samples_as_what_was_trained(whole, run_graph, sd15: Loaded):
    loaded, base = whole.samples["loaded"], whole.samples["base"]
    assert distance(loaded, base) > 0.05, "the training shows"
    assert distance(as_trained(run_graph, sd15, whole), loaded) < 1e-4
    assert "cannot apply" not in whole.report + whole.train_report


def same(first: Bundle, second: Bundle) -> bool:
    """Whether the same tensors are in both, under kohya's names of the layers or our own."""
    one, other = (
        {tuple(tensor.flatten().tolist()) for tensor in bundle.lora.values()}
        for bundle in (first, second)
    )
    return len(first.lora) == len(second.lora) and one == other


@pytest.mark.parametrize("kind", ["whole", "scales"])
def test_its_bundle_is_read_back_with_every_tensor(kind: str, request):
    one = request.getfixturevalue(kind)
    assert same(one.opened, one.bundle)
    assert one.opened.names == one.bundle.names == ["tok"]


@pytest.mark.parametrize("kind", ["whole", "scales"])
def test_a_finished_run_reads_its_own_result(kind: str, request, run_graph):
    one = request.getfixturevalue(kind)
    again = run_graph(one.graph)
    assert again[one.run, 5].startswith("This run was finished before.")
    assert same(again[one.run, 0], one.bundle)


def test_layers_that_comfyui_cannot_apply_are_in_both_reports(scales: SimpleNamespace):
    lora = scales.bundle.lora
    assert {key.rpartition(".")[2] for key in lora} == {"vera_lambda_b"}
    assert any(key.startswith("text_encoders.") for key in lora)
    assert all(tensor.abs().max() > 0 for tensor in lora.values())
    layer = next(iter(lora)).rpartition(".")[0]
    sentence = (
        "ComfyUI cannot apply adapters saved as vera_lambda_b, so these layers are left unchanged: "
    )
    assert f" and {len(lora) - 3} more." in scales.report and layer in scales.train_report
    assert sentence in scales.report and sentence in scales.train_report
    assert torch.equal(scales.samples["loaded"], scales.samples["base"])
