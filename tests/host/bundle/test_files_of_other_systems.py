"""Files of other systems: backslashes in names from Windows, and torch files in the view."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from harness.host.graphs import Graph
from harness.host.runner import GraphFailed
from pack.nodes.host.bundle.routes import bundle_overview
from pack.nodes.host.folders import as_listed, bundle_path
from pack.nodes.host.routes import Call

FILE = "embeddings/from windows/cat.safetensors"
WINDOWS = "embeddings/from windows\\cat.safetensors"
NODES = [("Pivotal_OpenBundle", "file"), ("Pivotal_ConvertBundle", "file")]


@pytest.fixture
def file(host) -> Path:
    path = Path(folder_paths.get_folder_paths("embeddings")[0], "from windows", "cat.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": torch.ones(2, 768)}, path)
    folder_paths.filename_list_cache.clear()
    return path


def test_either_slash_leads_to_the_file(file: Path):
    assert as_listed(WINDOWS) == as_listed(FILE) == FILE
    assert bundle_path(WINDOWS) == bundle_path(FILE) == file
    assert bundle_overview(Call(ids={}, query={"file": WINDOWS}))["names"]


@pytest.mark.parametrize(("kind", "name"), NODES)
def test_a_graph_from_windows_runs(run_graph, file: Path, kind: str, name: str):
    graph = Graph()
    node = graph.add(kind, **{name: WINDOWS})
    graph.keep(node.out())
    assert run_graph(graph)[node, 0]


def test_a_load_from_windows_runs_typed_and_linked(sd15, run_graph, file: Path):
    for linked in (False, True):
        graph = Graph()
        model, clip, _ = graph.base("sd15")
        wanted = graph.give(WINDOWS) if linked else WINDOWS
        node = graph.add("Pivotal_LoadBundle", model=model, clip=clip, file=wanted)
        graph.keep(node.out(2))
        assert run_graph(graph)[node, 2] == "embedding:cat"


@pytest.mark.parametrize(
    ("kind", "name"), [*NODES, ("Pivotal_TrimLora", "file"), ("Pivotal_PackBundle", "lora")]
)
def test_a_file_that_is_gone_is_refused_before_any_work(run_graph, file, kind: str, name: str):
    graph = Graph()
    graph.keep(graph.add(kind, **{name: "loras/gone.safetensors"}).out())
    with pytest.raises(GraphFailed, match='There is no bundle "loras/gone.safetensors"') as caught:
        run_graph(graph)
    assert caught.value.kind == "refused"


@pytest.mark.parametrize("name", ["../secret.safetensors", "embeddings\\..\\..\\x.safetensors"])
def test_no_slash_leads_out_of_the_folders(file: Path, name: str):
    assert as_listed(name) is None
    with pytest.raises(FileNotFoundError):
        bundle_path(name)


def test_the_view_of_a_torch_file_says_why_it_is_closed(file: Path, monkeypatch):
    """A workflow that merely opens must not unpickle a file that came with it."""
    path = file.parent.parent / "closed.pt"
    folder_paths.filename_list_cache.clear()
    torch.save({"string_to_param": {"*": torch.ones(1, 768)}}, path)
    monkeypatch.setattr(torch, "load", None)
    seen = bundle_overview(Call(ids={}, query={"file": "embeddings/closed.pt"}))
    assert seen["opened"] is False and seen["names"] == []
    assert "closed.pt: files of this kind can hold code" in seen["notes"][0]
