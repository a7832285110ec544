"""Trim LoRA in a graph: what a run has learned, seen, kept and cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from factories import write_pictures
from harness.host.graphs import Graph, Node
from harness.host.runner import GraphFailed

PROMPT = "a embedding:tok on grass"


@pytest.fixture(scope="module")
def bundle(host, run_graph, sd15) -> Any:
    """A LoRA of rank 4 with a word, trained fast."""
    folder = write_pictures(host.base / "input" / "trimmed", ["a TOK", "TOK on grass"])
    graph = Graph()
    run = graph.train(
        graph.base("sd15"),
        folder,
        concepts=graph.concept(),
        adapter=graph.add("Pivotal_Lora", rank=4).out(),
        optimizer=graph.add("Pivotal_Optimizer", learning_rate=0.02).out(),
        steps=4,
    )
    graph.keep(run.out())
    return run_graph(graph)[run, 0]


def sampled(run_graph, bundle: Any, **trimming: Any) -> tuple[Tensor, dict[Any, Any], Node]:
    """Latents with the trimmed bundle, all outputs, and the node that trimmed."""
    graph = Graph()
    model, clip, _ = graph.base("sd15")
    trim = graph.add("Pivotal_TrimLora", bundle=graph.give(bundle), **trimming)
    loaded = graph.add("Pivotal_LoadBundle", model=model, clip=clip, bundle=trim.out())
    sample = graph.sample(loaded.out(0), loaded.out(1), PROMPT)
    for place in range(4):
        graph.keep(trim.out(place))
    outputs = run_graph(graph)
    return outputs[sample, 0]["samples"], outputs, trim


def ranks(bundle: Any) -> set[int]:
    return {len(value) for key, value in bundle.lora.items() if key.endswith("lora_down.weight")}


def test_keeping_everything_samples_the_same(run_graph, bundle):
    graph = Graph()
    model, clip, _ = graph.base("sd15")
    loaded = graph.add("Pivotal_LoadBundle", model=model, clip=clip, bundle=graph.give(bundle))
    sample = graph.sample(loaded.out(0), loaded.out(1), PROMPT)
    plain = run_graph(graph)[sample, 0]["samples"]
    kept, outputs, trim = sampled(run_graph, bundle, keep="everything")
    assert (kept - plain).abs().max() <= 1e-4 * plain.std()
    assert outputs[trim, 2].shape[-1] == 3 and outputs[trim, 2].std() > 0
    cut, outputs, trim = sampled(run_graph, bundle, keep="a number of values", count=1)
    assert (cut - plain).abs().max() > 1e-2 * plain.std()
    assert ranks(bundle) == {4} and ranks(outputs[trim, 0]) == {1}
    assert outputs[trim, 0].embeddings == bundle.embeddings


def test_the_hosts_own_loader_takes_the_trimmed_lora(run_graph, bundle):
    whole, outputs, trim = sampled(run_graph, bundle, keep="a number of values", count=2)
    graph = Graph()
    model, clip, _ = graph.base("sd15")
    named = graph.add(
        "Pivotal_LoadBundle", model=model, clip=clip, bundle=graph.give(bundle), strength_model=0.0,
        strength_clip=0.0,
    )  # fmt: skip
    loaded = graph.add(
        "LoraModelLoader",
        model=model,
        lora=graph.give(outputs[trim, 1]),
        strength_model=1.0,
        bypass=False,
    )
    sample = graph.sample(loaded.out(0), named.out(1), PROMPT)
    assert torch.equal(run_graph(graph)[sample, 0]["samples"], whole)


def test_nothing_to_trim_is_one_sentence(host):
    graph = Graph()
    graph.keep(graph.add("Pivotal_TrimLora").out())
    with pytest.raises(GraphFailed, match="No LoRA: choose a file, or connect a bundle or a LoRA"):
        host.run(graph)
