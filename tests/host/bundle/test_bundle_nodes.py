"""Open, Inspect, Pack, Unpack, Rename, Merge and Convert Bundle through graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from safetensors.torch import load_file, save_file

from factories import bundle, lora, random_vectors
from harness.host.graphs import Graph
from harness.host.runner import GraphFailed
from pack.bundles.bundle import Bundle
from pack.bundles.files.safetensors import read_safetensors
from pack.bundles.table_picture import from_uri

LAYER = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"


@pytest.fixture(autouse=True)
def folders() -> dict[str, Path]:
    """The host's folders of LoRAs and embeddings, with a LoRA and two loose embeddings."""
    found = {}
    for kind in ("loras", "embeddings"):
        folder = Path(folder_paths.get_output_directory(), kind)
        folder.mkdir(parents=True, exist_ok=True)
        folder_paths.add_model_folder_path(kind, str(folder))
        found[kind] = folder
    save_file(layer(4), found["loras"] / "plain.safetensors", {"ss_tag_frequency": "{}"})
    save_file({"emb_params": vectors(1)}, found["embeddings"] / "kitty.safetensors")
    torch.save({"string_to_param": {"*": vectors(2)}}, found["embeddings"] / "doggy.pt")
    return found


def vectors(seed: int) -> torch.Tensor:
    return random_vectors("sd15", seed)["clip_l"]


def layer(rank: int) -> dict[str, torch.Tensor]:
    return lora({LAYER: (320, 768)}, rank=rank, alpha=rank)


def photos(*names: str) -> Bundle:
    return bundle(*names, lora=layer(4), initial="photo")


def run(run_graph: Any, kind: str, outputs: int = 2, **inputs: Any) -> list[Any]:
    """The outputs of one node; bundles among the inputs are given to it."""
    graph = Graph()
    given = {k: graph.give(v) if isinstance(v, Bundle) else v for k, v in inputs.items()}
    node = graph.add(f"Pivotal_{kind}", **given)
    kept = [graph.keep(node.out(index)) for index in range(outputs)]
    found = run_graph(graph)
    return [found[one, 0] for one in kept]


def saved(report: str) -> list[Path]:
    root = Path(folder_paths.get_output_directory())
    return [root / line[6:] for line in report.splitlines() if line.startswith("saved ")]


def test_open_bundle_reads_without_applying(run_graph):
    made, report = run(run_graph, "OpenBundle", file="embeddings/doggy.pt")
    assert torch.equal(made.embeddings["doggy"]["clip_l"], vectors(2))
    assert "names: doggy" in report and made.source.startswith("doggy.pt, SHA-256 ")


def test_pack_names_what_it_is_told_to(run_graph):
    made, report = run(
        run_graph,
        "PackBundle",
        lora="loras/plain.safetensors",
        embeddings="kitty.safetensors\nTom7 = doggy.pt",
    )
    assert made.names == ["kitty", "Tom7"] and made.lora.keys() == layer(4).keys()
    assert torch.equal(made.embeddings["Tom7"]["clip_l"], vectors(2))
    assert 'A1111 takes every "kitty"' in report


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"embeddings": ""}, "nothing to pack"),
        ({"embeddings": "mouse.pt"}, 'no bundle "embeddings/mouse.pt"'),
        ({"embeddings": "../../secret.pt"}, "no bundle"),
        ({"embeddings": "kitty.safetensors\nkitty.safetensors"}, 'hold the name "kitty"'),
        ({"embeddings": "v1.0 = kitty.safetensors"}, "holds a dot"),
    ],
)
def test_what_cannot_be_packed_is_said(run_graph, inputs, sentence):
    with pytest.raises(GraphFailed, match=sentence):
        run(run_graph, "PackBundle", lora="(none)", **inputs)


def test_unpack_writes_files_that_the_host_reads(run_graph):
    (report,) = run(
        run_graph, "UnpackBundle", 1, bundle=photos("cat", "my dog"), filename_prefix="apart/x"
    )
    files = saved(report)
    assert [file.name for file in files] == [
        "x.safetensors",
        "cat.safetensors",
        "my_dog.safetensors",
    ]
    assert load_file(files[1]).keys() == {"emb_params"}
    assert "'my dog' is saved as my_dog.safetensors" in report
    assert load_file(files[0])[next(iter(load_file(files[0])))].dtype == torch.float32
    (again,) = run(run_graph, "UnpackBundle", 1, bundle=photos("cat"), filename_prefix="apart/x")
    assert saved(again)[0].parent != files[0].parent and files[0].exists()


def test_rename_changes_names_and_takes_some_out(run_graph):
    made, report = run(
        run_graph, "RenameBundle", bundle=photos("cat", "dog", "cow"), names="cat = Tom7\n-dog"
    )
    assert made.names == ["Tom7", "cow"] and "names: Tom7, cow" in report
    assert made.entry_of["Tom7"].initial == "photo"


def test_merge_joins_ranks_and_names(run_graph):
    made, _ = run(
        run_graph,
        "MergeBundles",
        bundle_1=photos("cat"),
        bundle_2=photos("dog"),
        weights="1, 0.5",
        rank=0,
    )
    assert made.names == ["cat", "dog"]
    (up, down), (old_up, old_down) = (
        [tensors[f"{LAYER}.lora_{side}.weight"] for side in ("up", "down")]
        for tensors in (made.lora, layer(4))
    )
    torch.testing.assert_close(up @ down, 1.5 * old_up @ old_down, rtol=1e-4, atol=1e-4)
    assert down.shape[0] == 8 and made.lora[f"{LAYER}.alpha"].item() == 8


@pytest.mark.parametrize("container", ["a1111", "header", "loose", "diffusers", "onetrainer"])
def test_convert_writes_each_form_and_overwrites_nothing(run_graph, folders, container):
    before = {path: path.read_bytes() for path in folders["embeddings"].iterdir()}
    for _ in range(2):
        (report,) = run(
            run_graph,
            "ConvertBundle",
            1,
            file="embeddings/doggy.pt",
            container=container,
            filename_prefix=f"conv/{container}",
        )
        made, _ = run(run_graph, "OpenBundle", file="embeddings/doggy.pt")
        assert len(saved(report)) == 1 and saved(report)[0].exists()
        assert torch.equal(made.embeddings["doggy"]["clip_l"], vectors(2))
    assert {path: path.read_bytes() for path in folders["embeddings"].iterdir()} == before


def test_inspect_measures_against_the_clips_words(sd15, run_graph):
    table = sd15.clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    ids = [t for t, _ in sd15.clip.tokenize("photo")["l"][0]][1:2]
    word = table[ids[0]].float().reshape(1, -1)
    made = Bundle(family="sd15", lora=layer(4), embeddings={"cat": {"clip_l": 3 * word}})
    graph = Graph()
    _, clip, _ = graph.base("sd15")
    node = graph.add("Pivotal_InspectBundle", bundle=graph.give(made), clip=clip)
    kept = graph.keep(node.out(0)), graph.keep(node.out(1))
    outputs = run_graph(graph)
    text, picture = (outputs[one, 0] for one in kept)
    assert "photo 1.00" in text and "rank 4" in text
    assert (
        picture.shape[0] == 1 and picture.shape[-1] == 3 and 0 <= picture.min() < picture.max() <= 1
    )
    assert outputs.ui[str(node)]["text"] == [text] or text in str(outputs.ui[str(node)]["text"])


def test_nan_is_shown_by_inspect_and_refused_by_save(run_graph, folders):
    save_file(
        {"emb_params": torch.full((1, 768), float("nan"))},
        folders["embeddings"] / "bad.safetensors",
    )
    made, _ = run(run_graph, "OpenBundle", file="embeddings/bad.safetensors")
    text, _ = run(run_graph, "InspectBundle", bundle=made)
    assert "768 values are NaN or infinite" in text
    with pytest.raises(GraphFailed, match="'bad' holds NaN"):
        run(run_graph, "SaveBundle", bundle=made, filename_prefix="bad/x")


def test_the_thumbnail_and_the_names_pictures_are_in_the_file(run_graph):
    pictures = torch.zeros(2, 64, 96, 3)
    pictures[1, ..., 0] = 1.0
    graph = Graph()
    node = graph.add(
        "Pivotal_SaveBundle",
        bundle=graph.give(photos("cat", "dog")),
        filename_prefix="thumb/x",
        thumbnails=graph.give(pictures),
    )
    kept = graph.keep(node.out(1))
    report = run_graph(graph)[kept, 0]
    _, metadata = read_safetensors(saved(report)[0])
    entries = json.loads(metadata["pivotal.index"])["entries"]
    black, red = from_uri(metadata["modelspec.thumbnail"]), from_uri(entries[0]["thumbnail"])
    assert black.getpixel((5, 5)) == (0, 0, 0) and red.getpixel((5, 5))[0] > 240
    assert red.size == (96, 64) and "thumbnail" not in entries[1]
