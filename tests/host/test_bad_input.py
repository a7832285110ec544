"""What cannot be trained or saved is refused in one sentence, before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from factories import write_pictures
from harness.host.graphs import Graph, Link
from harness.host.runner import GraphFailed
from pack.bundles.bundle import Bundle
from pack.nodes.host.folders import input_folder

SENTENCES = {"ValueError", "FileNotFoundError", "ImportError"}


@pytest.fixture(scope="module")
def inputs(host) -> Path:
    """The input folder with a good dataset, `good`, in it."""
    folder = host.base / "input"
    write_pictures(folder / "good", ["a picture of TOK", "TOK on grass"])
    return folder


@pytest.fixture
def refused(sd15, run_graph, inputs) -> Callable[[Graph], str]:
    """Run a graph that must fail before it writes anything, and return its one sentence."""

    def run(graph: Graph) -> str:
        before = everything_written()
        with pytest.raises(GraphFailed) as caught:
            run_graph(graph)
        assert everything_written() == before
        text = str(caught.value)
        assert caught.value.kind in SENTENCES | {"refused"}, text
        assert caught.value.kind == "refused" or "\n" not in text
        return text

    return run


def everything_written() -> set[Path]:
    return set(Path(folder_paths.get_output_directory()).rglob("*"))


def graph_of(folder: str = "good", **changes: Any) -> Graph:
    """A graph that trains well unless it is changed; None takes an input away."""
    graph = Graph()
    settings = {
        "concepts": graph.concept(),
        "adapter": graph.add("Pivotal_Lora", rank=2, alpha=2.0).out(),
        "steps": 1,
        **{name: value(graph) if callable(value) else value for name, value in changes.items()},
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    graph.keep(graph.train(graph.base("sd15"), folder, **settings).out(5))
    return graph


def report_of(run_graph: Callable[..., Any], graph: Graph) -> str:
    """The report of a graph that trains."""
    (train,) = (name for name, node in graph.items() if "TrainConcepts" in node["class_type"])
    return run_graph(graph)[train, 5]


def concepts(*settings: dict[str, Any]) -> Callable[[Graph], Link]:
    """A chain of concepts."""

    def add(graph: Graph) -> Link:
        link: Link | None = None
        for one in settings:
            link = graph.concept(**one, **({"concepts": link} if link else {}))
        assert link is not None
        return link

    return add


def lora(rank: int) -> Callable[[Graph], Link]:
    return lambda graph: graph.add("Pivotal_Lora", rank=rank, alpha=1.0).out()


def objective(**settings: Any) -> Callable[[Graph], Link]:
    return lambda graph: graph.add("Pivotal_Objective", **settings).out()


def test_the_graph_itself_is_good(sd15, run_graph, inputs):
    """So that each refusal below has the reason that it names."""
    run_graph(graph_of())


def pivot_zero(graph: Graph) -> Link:
    return graph.concept(pivot=0.0)


REFUSED = [
    ({"concepts": None, "adapter": None}, ["Nothing to train", "connect concepts, an adapter"]),
    (
        {"concepts": pivot_zero, "adapter": None},
        ["pivot 0", "no adapter", "nothing would train"],
    ),
    (
        {"concepts": concepts({"placeholder": "DOG"})},
        ['"DOG" is in no caption of good', "write it into the captions"],
    ),
    (
        {"concepts": concepts({"placeholder": "tok"})},
        ['"tok" is in no caption of good', "correct the concept's placeholder"],
    ),
    (
        {"concepts": concepts({"name": "cat"}, {"placeholder": "grass", "name": "cat"})},
        ['Two concepts have the name "cat"', "rename one"],
    ),
    (
        {"concepts": concepts({"name": "cat"}, {"name": "dog"})},
        ['Two concepts have the placeholder "TOK"', "rename one"],
    ),
    ({"concepts": concepts({"name": "v1.0"})}, ["'v1.0' holds a dot", "choose another name"]),
    ({"concepts": concepts({"name": "7"})}, ["'7' is a number", "choose another name"]),
    ({"concepts": concepts({"placeholder": " "})}, ["no placeholder", "give the word"]),
    ({"adapter": lora(1024)}, ["rank 1024 is larger than", "320 or less"]),
    ({"run_name": "a/b"}, ['run name "a/b"', "use letters"]),
    ({"run_name": ".."}, ['run name ".."', "use letters"]),
    ({"run_name": " .. "}, ['run name " .. "', "use letters"]),
    ({"run_name": "cat."}, ['run name "cat."', "use letters"]),
    ({"run_name": "nul.1"}, ['run name "nul.1"', "use letters"]),
    ({"run_name": "  "}, ['run name "  "', "use letters"]),
    ({"run_name": "C:\\x"}, ["run name", "use letters"]),
    ({"warmup_steps": 1}, ["warmup_steps is 1", "use 0 to 0"]),
    (
        {"objective": objective(prior="class pictures")},
        ["class pictures", "connect them to class_dataset"],
    ),
    (
        {
            "objective": objective(prior="base model"),
            "concepts": concepts({"initial": "", "class_word": ""}),
        },
        ['"TOK" has neither class_word nor initial', "such as dog"],
    ),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=[case[1][0] for case in REFUSED])
def test_what_cannot_be_trained_is_refused_before_any_work(refused, changes, words):
    sentence = refused(graph_of(**changes))
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "smaller than min of 1: steps"),
        ({"batch_size": 0}, "smaller than min of 1: batch_size"),
        ({"resolution": 0}, "smaller than min of 64: resolution"),
        ({"seed": -1}, "smaller than min of 0: seed"),
        ({"schedule": "zigzag"}, "not in list: schedule"),
        ({"folder": "absent"}, 'There is no folder "absent" in ComfyUI'),
        ({"folder": "../.."}, "outside ComfyUI's input folder"),
        ({"folder": "/etc"}, "outside ComfyUI's input folder"),
    ],
)
def test_the_host_refuses_values_out_of_range_before_the_graph_runs(refused, changes, words):
    text = refused(graph_of(**changes))
    assert words in text, text


@pytest.mark.parametrize("name", ["..", "../..", "/etc", "good/../.."])
def test_pictures_are_read_from_the_input_folder_alone(inputs, name):
    with pytest.raises(ValueError, match="outside ComfyUI's input folder: move it inside"):
        input_folder(name)


def test_a_folder_that_is_gone_is_named(inputs):
    with pytest.raises(FileNotFoundError, match='no folder "gone" in .*: put your images into'):
        input_folder("gone")


def test_an_empty_folder_is_refused(refused, inputs):
    (inputs / "empty").mkdir(exist_ok=True)
    sentence = refused(graph_of("empty"))
    assert "There is no image in empty itself" in sentence and "put some there" in sentence
    assert str(inputs) not in sentence


def test_a_folder_without_a_readable_picture_is_refused(refused, inputs):
    (inputs / "broken").mkdir(exist_ok=True)
    (inputs / "broken" / "a.png").write_bytes(b"not a picture")
    sentence = refused(graph_of("broken"))
    assert "a.png cannot be read as an image" in sentence and "save it again" in sentence


def test_an_unreadable_picture_is_left_out_and_named(sd15, run_graph, inputs):
    write_pictures(inputs / "mixed", ["a TOK", "TOK on grass", "TOK at sea"])
    (inputs / "mixed" / "1.png").write_bytes((inputs / "mixed" / "1.png").read_bytes()[:60])
    (inputs / "mixed" / "2.txt").write_bytes("TOK für".encode("latin-1"))
    report = report_of(run_graph, graph_of("mixed"))
    assert "1 steps on 2 images" in report
    assert "1.png cannot be read as an image" in report and "save it again" in report
    assert "2.txt is not UTF-8 text and was read as Windows-1252: save it as UTF-8" in report


def test_a_picture_without_a_caption_is_named(refused, inputs):
    write_pictures(inputs / "silent", ["a TOK", ""])
    sentence = refused(graph_of("silent"))
    assert "Caption missing for 1.png" in sentence
    assert "add 1.txt" in sentence and "default caption" in sentence


def test_no_caption_at_all_and_no_default_is_refused(refused, inputs):
    write_pictures(inputs / "mute", ["", ""])
    assert "Caption missing for 0.png" in refused(graph_of("mute"))


def test_a_default_caption_cures_it(sd15, run_graph, inputs):
    write_pictures(inputs / "mute", ["", ""])
    graph = graph_of("mute")
    data = next(node for node in graph.values() if node["class_type"] == "Pivotal_LoadDataset")
    data["inputs"]["default_caption"] = "a photo of TOK"
    run_graph(graph)


def test_a_lora_alone_needs_no_captions(sd15, run_graph, inputs):
    write_pictures(inputs / "mute", ["", ""])
    run_graph(graph_of("mute", concepts=None))


def test_a_class_picture_needs_no_placeholder(sd15, run_graph, inputs):
    """The prior's pictures are of the class, so no concept is looked for in their captions."""
    write_pictures(inputs / "dogs", ["a dog", "a dog on grass"])
    graph = graph_of(
        objective=objective(prior="class pictures"),
        class_dataset=lambda graph: graph.add("Pivotal_LoadDataset", folder="dogs").out(),
    )
    assert "1 steps on 2 images" in report_of(run_graph, graph)


def save(prefix: str) -> Graph:
    graph, made = Graph(), Bundle(family="sd15", lora={}, embeddings={})
    graph.add("Pivotal_SaveBundle", bundle=graph.give(made), filename_prefix=prefix)
    return graph


@pytest.mark.parametrize(
    "prefix", ["../x", "loras/../../x", "/tmp/x", "loras/..", "..", "", "a/../b", "\\\\server\\x"]
)
def test_an_output_name_stays_in_the_output_folder(refused, prefix):
    sentence = refused(save(prefix))
    assert f'"{prefix}"' in sentence and "output folder: use a name such as loras/cat" in sentence


def test_a_bundle_of_nothing_is_not_saved(refused):
    assert "there is nothing to save" in refused(save("loras/nothing"))


def load(file: str) -> Graph:
    graph = Graph()
    model, clip, _ = graph.base("sd15")
    graph.keep(graph.add("Pivotal_LoadBundle", model=model, clip=clip, file=file).out())
    return graph


@pytest.fixture
def loras(host) -> Path:
    folder = host.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\x10\0\0\0\0\0\0\0{}", b"\xff" * 64])
def test_a_corrupt_bundle_is_named(refused, loras, content):
    (loras / "torn.safetensors").write_bytes(content)
    sentence = refused(load("loras/torn.safetensors"))
    assert "torn.safetensors is not a readable safetensors file" in sentence
    assert sentence.endswith("Copy it again or choose another.")


def test_a_file_that_is_no_bundle_is_named(refused, loras):
    save_file({"model.weight": torch.zeros(2)}, loras / "other.safetensors")
    sentence = refused(load("loras/other.safetensors"))
    assert "other.safetensors cannot be loaded: this kind of file is not known" in sentence
    assert "known are" in sentence


def test_a_bundle_with_nan_is_named(refused, loras):
    rows = torch.full((1, 768), torch.nan)
    save_file({"bundle_emb.cat.clip_l": rows}, loras / "nan.safetensors")
    sentence = refused(load("loras/nan.safetensors"))
    assert "nan.safetensors cannot be loaded: the embedding 'cat' holds NaN" in sentence
    assert "train it again" in sentence


def test_a_bundle_that_is_gone_is_refused_by_the_host(refused):
    sentence = refused(load("loras/gone.safetensors"))
    assert 'There is no bundle "loras/gone.safetensors": choose another file' in sentence


def test_load_bundle_without_a_bundle_says_what_to_do(refused):
    assert "choose a file, or connect a bundle" in refused(load("(connected bundle)"))
