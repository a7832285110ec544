"""The captions of a run are drawn and parsed once: what is checked is what is trained."""

from __future__ import annotations

from collections import Counter

import pytest

from factories import write_pictures
from harness.host.graphs import Graph
from harness.host.runner import GraphFailed, Host
from pack.training.words import concepts

CAPTIONS = ["a picture of TOK", "TOK on grass", "a hill", "TOK at night", "a TOK, red"]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each text is split into words and mentions of concepts."""
    counts, split = Counter[str](), concepts.split_caption

    def counted(text: str, *rest: object):
        counts[text] += 1
        return split(text, *rest)

    monkeypatch.setattr(concepts, "split_caption", counted)
    return counts


def test_each_caption_of_a_run_is_parsed_once(host: Host, run_graph, sd15, parsed):
    write_pictures(host.base / "input" / "once", CAPTIONS)
    write_pictures(host.base / "input" / "class", ["a dog", "two dogs"])
    graph = Graph()
    prior = graph.add("Pivotal_LoadDataset", folder="class").out()
    node = graph.train(
        graph.base("sd15"), "once", concepts=graph.concept(), steps=2, class_dataset=prior,
        objective=graph.add("Pivotal_Objective", prior="class pictures").out(),
        validation=graph.add("Pivotal_Validation", every=1, hold_out=1).out(),
    )  # fmt: skip
    graph.keep(node.out(5))
    run_graph(graph)
    assert parsed == Counter([*CAPTIONS, "a dog", "two dogs"])


def test_a_concept_that_the_drawn_captions_lack_is_refused(host: Host, run_graph, sd15):
    """The check reads the texts of the run's own seed, where every caption may be dropped."""
    write_pictures(host.base / "input" / "dropped", ["a TOK"])
    graph = Graph()
    data = graph.add("Pivotal_LoadDataset", folder="dropped").out()
    varied = graph.add("Pivotal_VaryCaptions", dataset=data, texts=1, caption_dropout=1.0).out()
    node = graph.train(graph.base("sd15"), "", concepts=graph.concept(), dataset=varied)
    graph.keep(node.out(5))
    with pytest.raises(GraphFailed, match="Caption missing for"):
        run_graph(graph)
