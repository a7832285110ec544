"""Previews are what the graph draws: their texts are read by the code of the graph's prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from factories import write_pictures
from harness.host.graphs import Graph, concept_run
from pack.nodes.host.run.run_folder import RunFolder
from pack.nodes.host.text.port import HostTextEncoder

STEPS = 6
ADAPTED = ("Pivotal_Lora", {"rank": 2, "text_encoder": True})
PROMPTS = (
    "a embedding:tok", "a Embedding: tok", "a EMBEDDING:TOK, red", "(embedding:tok:1.3) and tom",
    "embedding:tok.safetensors", "一张embedding:tok的照片", "a embedding:tommy on grass",
    "embedding:tok-neg, embedding:tok-v1", "embedding:tom beside embedding:tommy",
)  # fmt: skip
NEGATIVE = "blurry, embedding:tok-neg"


@pytest.fixture(autouse=True)
def pictures(host: Any, sd15: Any) -> None:
    captions = ["a TOK", "TOM at night", "TOMMY on grass", "TOK in snow"]
    write_pictures(host.base / "input" / "previewed", captions)


def encoded_by(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Every text that previews encode, with what came out."""
    seen: list[tuple[str, Any]] = []
    encode = HostTextEncoder.encode_prompt

    def watching(self: HostTextEncoder, prompt: str, *more: Any) -> Any:
        made = encode(self, prompt, *more)
        # The run may be between two updates of the same memory.
        parts = {name: value.clone() for name, value in made[0][1].items() if value is not None}
        seen.append((prompt, [[made[0][0].clone(), parts]]))
        return made

    monkeypatch.setattr(HostTextEncoder, "encode_prompt", watching)
    return seen


def drawing(graph: Graph, *prompts: str, every: int, **more: Any) -> Any:
    return graph.add(
        "Pivotal_Previews", prompts="\n".join(prompts), every=every, time_share=1.0, steps=1,
        width=64, height=64, **more,
    ).out()  # fmt: skip


def concepts(graph: Graph) -> Any:
    first = graph.concept(pivot=0.5, negative_vectors=1)
    second = graph.concept("TOM", pivot=0.3, concepts=first)
    return graph.concept("TOMMY", pivot=1.0, concepts=second)


@pytest.mark.parametrize("kind", [("Pivotal_Lora", {"rank": 2}), ADAPTED])
def test_the_last_previews_read_their_prompts_as_the_graph_does(
    host: Any, run_graph: Any, monkeypatch: pytest.MonkeyPatch, kind: Any
):
    seen, graph = encoded_by(monkeypatch), Graph()
    drawn = drawing(graph, *PROMPTS, every=STEPS, negative=NEGATIVE)
    graph, node = concept_run(
        "previewed", graph, kind, previews=drawn, run_name=f"drawn {len(kind[1])}", steps=STEPS,
        concepts=concepts(graph),
    )  # fmt: skip
    texts = {
        text: graph.keep(graph.add("CLIPTextEncode", clip=node.out(2), text=text).out())
        for text in (*PROMPTS, NEGATIVE)
    }
    made = run_graph(graph)
    assert {text for text, _ in seen} == {*PROMPTS, NEGATIVE}
    for text, ((cond, parts),) in seen:
        ((expected, others),) = made[texts[text], 0]
        if kind is ADAPTED:
            # They act beside the encoder's weights while they train, and in them later.
            assert (cond - expected).norm() < 5e-3 * expected.norm()
        else:
            assert torch.equal(cond, expected)
            assert torch.equal(parts["pooled_output"], others["pooled_output"])


def test_no_text_is_kept_while_anything_of_it_can_change(
    run_graph: Any, monkeypatch: pytest.MonkeyPatch
):
    """With adapters of the text encoder even a text without a name changes at each step."""
    seen, graph = encoded_by(monkeypatch), Graph()
    rate = graph.add("Pivotal_Optimizer", learning_rate=0.01).out()
    graph, _ = concept_run(
        "previewed", graph, ADAPTED, previews=drawing(graph, "a hill", every=2, negative=""),
        run_name="drawn moving", steps=STEPS, optimizer=rate,
    )  # fmt: skip
    run_graph(graph)
    first, second, third = (made[0][0] for text, made in seen if text == "a hill")
    assert not torch.equal(first, second) and not torch.equal(second, third)


def test_a_text_is_encoded_once_after_everything_in_it_is_frozen(
    run_graph: Any, monkeypatch: pytest.MonkeyPatch
):
    seen, graph = encoded_by(monkeypatch), Graph()
    graph, _ = concept_run(
        "previewed", graph, previews=drawing(graph, "a TOK", every=1, negative="TOK"),
        run_name="drawn frozen", steps=STEPS, concepts=graph.concept(pivot=0.5),
    )  # fmt: skip
    run_graph(graph)
    # Before the third step the vectors move; from there on nothing does.
    assert [text for text, _ in seen].count("a TOK") == 3


def test_previews_without_a_concept_say_its_own_words_wherever_it_stands(
    host: Any, run_graph: Any, monkeypatch: pytest.MonkeyPatch
):
    seen, graph = encoded_by(monkeypatch), Graph()
    drawn = drawing(graph, "TOK and embedding:tommy", every=STEPS, negative="", without=True)
    graph, node = concept_run(
        "previewed", graph, previews=drawn, run_name="drawn without", steps=STEPS,
        concepts=concepts(graph),
    )  # fmt: skip
    plain = ("dog and embedding:tommy", "embedding:tok and dog")
    kept = [graph.keep(graph.add("CLIPTextEncode", clip=node.out(2), text=t).out()) for t in plain]
    made = run_graph(graph)
    each = [conditions[0][0] for text, conditions in seen if text]
    assert len(each) == 3
    for cond, key in zip(each[1:], kept, strict=True):
        assert torch.equal(cond, made[key, 0][0][0])
    names = [
        path.name
        for path in RunFolder(host.base / "output/pivotal/drawn without", "").previews.iterdir()
    ]
    ends = {name.partition("_p1_s")[2][1:] for name in names}
    assert ends == {".jpg", "_without1.jpg", "_without2.jpg"}
