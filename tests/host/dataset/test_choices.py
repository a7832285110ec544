"""A choice that is not there is a sentence with the cure, before anything runs."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import pytest

from harness.host.graphs import Graph
from harness.host.runner import GraphFailed
from pack.nodes.host.folders import NO_FOLDER, OF_THE_HOST, dataset_folders

MISSING = {
    "folder": ("Pivotal_LoadDataset", "folder", "cats", r"put your images into input/cats and"),
    "no folder": ("Pivotal_LoadDataset", "folder", NO_FOLDER, r"such as input/my_cat, press R"),
    "datasets": ("Pivotal_LoadDataset", "folder", "[datasets] x", r"no folder \"x\" in the data"),
    "captioner": ("Pivotal_LoadCaptioner", "model", "(none found)", r"hf download florence-comm"),
    "tagger": ("Pivotal_TagDataset", "model", "(none found)", r"hf download SmilingWolf/wd-vit"),
    "bundle": ("Pivotal_LoadBundle", "file", "loras/gone.safetensors", r"choose another file"),
}


@pytest.mark.parametrize("kind", MISSING)
def test_what_is_chosen_and_missing_is_named_with_its_cure(run_graph, host, kind: str):
    node, name, value, sentence = MISSING[kind]
    graph = Graph()
    inputs = {name: value}
    if node == "Pivotal_TagDataset":
        (host.base / "input" / "choices").mkdir(exist_ok=True)
        inputs["dataset"] = graph.add("Pivotal_LoadDataset", folder="choices").out()
    if node == "Pivotal_LoadBundle":
        model, clip, _ = graph.base("sd15")
        inputs |= {"model": model, "clip": clip}
    graph.keep(graph.add(node, **inputs).out())
    with pytest.raises(GraphFailed, match=sentence) as failed:
        run_graph(graph)
    assert failed.value.kind == "refused"
    assert "not in list" not in str(failed.value)
    assert str(host.base) not in str(failed.value)


def test_a_new_node_shows_a_folder_of_the_person_and_none_of_the_host(
    host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    for name in OF_THE_HOST:
        (tmp_path / name).mkdir()
    own = [name for name in dataset_folders() if not name.startswith("[datasets]")]
    assert own[0] == NO_FOLDER and set(own[1:]) == OF_THE_HOST
    (tmp_path / "cats").mkdir()
    assert dataset_folders()[0] == "cats"
