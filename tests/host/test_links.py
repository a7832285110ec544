"""What other packs and clients hand to the nodes: each value fits, or one sentence names it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from factories import write_pictures
from harness.host.graphs import Graph, Node
from harness.host.runner import GraphFailed
from pack.nodes.extension import NODES
from pack.nodes.links import fitting

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def good(host) -> Path:
    folder = host.base / "input" / "links"
    write_pictures(folder, ["a picture of TOK", "TOK on grass"])
    return folder


@pytest.fixture
def answer(run_graph: Run, good: Path) -> Callable[..., Any]:
    """The output of a node with one input linked to a value."""

    def ask(kind: str, name: str, value: Any, output: int = 0, **inputs: Any) -> Any:
        graph = Graph()
        if kind in ("Pivotal_LabelDataset", "Pivotal_FilterDataset") and name != "dataset":
            inputs["dataset"] = graph.add("Pivotal_LoadDataset", folder="links").out()
        node: Node = graph.add(kind, **inputs)
        graph[node]["inputs"][name] = graph.give(value)
        graph.keep(node.out(output))
        return run_graph(graph)[node, output]

    return ask


def test_an_optional_input_that_gets_none_counts_as_not_connected(answer):
    plain = answer("Pivotal_Concept", "concepts", None)
    assert plain == answer("Pivotal_Concept", "negative_vectors", None)
    found = answer("Pivotal_LoadDataset", "path", None, folder="links")
    assert [record.caption for record in found.records] == ["a picture of TOK", "TOK on grass"]


def test_every_node_takes_none_for_each_optional_input():
    for node in NODES:
        schema = node.define_schema()
        optional = [one.id for one in schema.inputs if one.optional]
        empty: Any = [None] if schema.is_input_list else None
        assert fitting(schema, dict.fromkeys(optional, empty)) == {}


def test_a_text_that_may_be_empty_takes_none_as_empty(answer):
    (concept,) = answer("Pivotal_Concept", "initial", None)
    assert concept.initial == ""


@pytest.mark.parametrize(
    ("kind", "name", "value", "attribute", "right"),
    [
        ("Pivotal_Concept", "placeholder", 1984, "placeholder", "1984"),
        ("Pivotal_Concept", "vectors", "3", "vectors", 3),
        ("Pivotal_Concept", "vectors", 3.0, "vectors", 3),
        ("Pivotal_Concept", "pivot", "0.25", "pivot", 0.25),
        ("Pivotal_Concept", "output", "False", "output", False),
    ],
)
def test_a_number_or_text_is_converted_as_a_typed_one(answer, kind, name, value, attribute, right):
    (concept,) = answer(kind, name, value)
    assert getattr(concept, attribute) == right


@pytest.mark.parametrize(
    ("kind", "name", "value", "words"),
    [
        ("Pivotal_Concept", "placeholder", None, ["placeholder gets nothing", "bypassed"]),
        ("Pivotal_Concept", "placeholder", ["TOK"], ["placeholder gets a list", "STRING"]),
        ("Pivotal_Concept", "vectors", 2.5, ["vectors gets 2.5", "INT"]),
        ("Pivotal_Concept", "vectors", "many", ["vectors gets 'many'", "INT"]),
        ("Pivotal_Concept", "concepts", "TOK", ["concepts gets 'TOK'", "PIVOTAL_CONCEPTS"]),
        ("Pivotal_LabelDataset", "dataset", None, ["dataset gets nothing"]),
        ("Pivotal_LabelDataset", "dataset", {"a": 1}, ["dataset gets a dict", "PIVOTAL_DATASET"]),
        ("Pivotal_LabelDataset", "kind", "robot", ["kind gets 'robot'", "object", "style"]),
        ("Pivotal_FilterDataset", "query", torch.zeros(1), ["query gets a Tensor", "STRING"]),
    ],
)
def test_a_value_that_cannot_be_used_is_named_in_one_sentence(answer, kind, name, value, words):
    with pytest.raises(GraphFailed) as caught:
        answer(kind, name, value)
    assert caught.value.kind == "ValueError"
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_linked_folder_is_read_again_on_every_run_and_warns_of_nothing(answer, good, caplog):
    """ComfyUI does not know the value of a link when it asks whether something has changed."""
    answer("Pivotal_LoadDataset", "path", str(good), folder="links")
    assert not [line for line in caplog.records if "NoneType" in line.getMessage()]


def test_a_fingerprint_is_unknown_if_an_input_that_it_reads_is_linked(good):
    for node in NODES:
        if node.__name__ == "LoadDataset":
            known: dict[str, Any] = {"folder": "links", "caption_extension": ".txt"}
            assert math.isnan(node.fingerprint_inputs(**known, path=None))
            same = node.fingerprint_inputs(**known, default_caption=None)
            assert same == node.fingerprint_inputs(**known)
        elif node.__name__ in ("LoadBundle", "OpenBundle", "ConvertBundle", "TrimLora"):
            assert math.isnan(node.fingerprint_inputs(file=None))
