"""Sixteen concepts, fifteen characters and a style, learn in one run and land in one bundle."""

from __future__ import annotations

import torch

from factories import write_pictures
from harness.host.graphs import Graph
from pack.nodes.host.text.port import HostTextEncoder
from pack.training.words.concepts import Concept
from pack.training.words.vectors import initial_vectors

CHARACTERS = [f"CHAR{number}" for number in range(15)]
STYLE = "STYLE"


def test_sixteen_concepts_train_in_one_run(host, run_graph, sd15):
    captions = [f"a picture of {character}, {STYLE}" for character in CHARACTERS]
    write_pictures(host.base / "input" / "sixteen", captions)
    graph, chain = Graph(), {}
    for number, placeholder in enumerate([*CHARACTERS, STYLE]):
        link = graph.concept(placeholder, pivot=1.0, vectors=1 + number % 3, **chain)
        chain = {"concepts": link}
    run = graph.train(
        graph.base("sd15"),
        "sixteen",
        **chain,
        adapter=graph.add("Pivotal_Lora", rank=2).out(),
        steps=5,
        batch_size=3,
        run_name="sixteen",
    )
    saved = graph.add("Pivotal_SaveBundle", bundle=run.out(), filename_prefix="loras/sixteen")
    graph.keep(saved.out(1))
    outputs = run_graph(graph)
    bundle = outputs[saved, 0]
    assert list(bundle.embeddings) == [name.lower() for name in [*CHARACTERS, STYLE]]
    assert "Forge refuses" in outputs[saved, 1]
    with torch.inference_mode(False):
        concepts = [
            Concept(placeholder=name, name=name.lower(), initial="dog", vectors=1 + number % 3)
            for number, name in enumerate([*CHARACTERS, STYLE])
        ]
        starts = initial_vectors(concepts, HostTextEncoder(sd15.clip), seed=0)
    for name, start in starts.items():
        rows = bundle.embeddings[name]["clip_l"]
        assert rows.shape == start["clip_l"].shape
        assert not torch.equal(rows, start["clip_l"]), f"{name} has not trained"
