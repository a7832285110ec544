"""A CLIP of the host that can see captions a dataset; one that cannot is told apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.model_management as management
import pytest
from PIL import Image

from harness.host.graphs import Graph
from harness.host.runner import GraphFailed, GraphInterrupted, Host
from harness.models.vlm import save_vlm, tiny_qwen


@pytest.fixture(scope="module")
def vlm(host: Host) -> Iterator[str]:
    path = host.base / "models" / "text_encoders" / "tiny_qwen3vl.safetensors"
    with tiny_qwen():
        save_vlm(path)
        yield path.name


@pytest.fixture
def folder(host: Host, tmp_path: Path) -> Path:
    path = host.base / "input" / tmp_path.name
    path.mkdir(parents=True)
    for number in range(3):
        Image.effect_noise((400, 200), 90).convert("RGB").save(path / f"{number}.png")
    return path


def graph_of(vlm: str, folder: Path, **settings: Any) -> tuple[Graph, Any, Any]:
    graph = Graph()
    clip = graph.add("CLIPLoader", clip_name=vlm, type="stable_diffusion")
    data = graph.add("Pivotal_LoadDataset", folder=folder.name)
    settings = {"max_tokens": 6, "max_side": 128, "temperature": 0.7, **settings}
    node = graph.add("Pivotal_CaptionDataset", dataset=data.out(), clip=clip.out(), **settings)
    graph.keep(node.out())
    graph.keep(node.out(2))
    return graph, node, clip


def test_a_clip_of_the_hosts_loader_captions_a_dataset_and_remembers(run_graph, vlm, folder):
    graph, node, _ = graph_of(vlm, folder, limit=2)
    first = run_graph(graph)
    captions = [record.caption for record in first[node, 0].records]
    assert captions[0] and captions[1] and not captions[2]
    graph, node, _ = graph_of(vlm, folder)
    second = run_graph(graph)
    assert [r.caption for r in second[node, 0].records][:2] == captions[:2]
    assert "1 captioned now" in second[node, 2] and "2 kept from before" in second[node, 2]


def test_cancel_stops_between_two_words_and_loses_no_picture(run_graph, vlm, folder, monkeypatch):
    from comfy.sd import CLIP

    generate, count = CLIP.generate, [0]

    def second_is_cancelled(self: Any, *args: Any, **settings: Any) -> Any:
        count[0] += 1
        if count[0] == 2:
            management.interrupt_current_processing()
        return generate(self, *args, **settings)

    monkeypatch.setattr(CLIP, "generate", second_is_cancelled)
    graph, _, _ = graph_of(vlm, folder, batch_size=1, seed=5)
    with pytest.raises(GraphInterrupted):
        run_graph(graph)
    monkeypatch.undo()
    graph, node, _ = graph_of(vlm, folder, batch_size=1, seed=5)
    assert "2 captioned now" in run_graph(graph)[node, 2]


def test_a_clip_that_drops_the_picture_is_a_sentence(run_graph, vlm, folder, monkeypatch):
    import comfy.text_encoders.qwen3vl as qwen

    tokenize = qwen.Qwen3VLTokenizer.tokenize_with_weights

    def without_picture(self: Any, text: str, *args: Any, **settings: Any) -> Any:
        settings.pop("image", None)
        return tokenize(self, text, *args, **settings)

    monkeypatch.setattr(qwen.Qwen3VLTokenizer, "tokenize_with_weights", without_picture)
    with pytest.raises(GraphFailed, match="silently ignores the image: use Qwen3-VL"):
        run_graph(graph_of(vlm, folder)[0])
