"""Output embeddings are trained where they act: behind the text encoder, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from factories import write_pictures
from harness.host.graphs import Graph
from harness.host.runner import GraphFailed, Host, Loaded
from pack.nodes.host.denoiser.port import HostDenoiser
from pack.nodes.host.run.drive import gradients
from pack.nodes.host.text.output_embeddings import encode_with_outputs
from pack.nodes.host.text.port import HostTextEncoder
from pack.nodes.host.text.resolve import NameRules, bind_names
from pack.training.ports import Crop, Mention
from pack.training.words.concepts import Concept
from pack.training.words.outputs import initial_outputs
from world import families

CROP = Crop(width=64, height=64, left=0, top=0, original_width=64, original_height=64)
CONCEPT = Concept(placeholder="TOK", initial="small dog", vectors=2, output=True)


@pytest.fixture(params=["sd15", "sdxl"])
def family(request: pytest.FixtureRequest, host: Host) -> str:
    request.getfixturevalue(request.param)
    write_pictures(host.base / "input" / "late", ["a picture of TOK", "TOK on grass", "a hill"])
    return request.param


def train(family: str, name: str, steps: int, **settings: object) -> tuple[Graph, str]:
    """A graph that trains an output embedding, and its training node."""
    graph = Graph()
    own = {"concepts": graph.concept(output=True, pivot=1.0, **settings), "steps": steps}
    node = graph.train(graph.base(family), "late", run_name=name, **own)
    graph.keep(node.out(5))
    return graph, node


def joined(rows: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([rows[key] for key in ("clip_l", "clip_g") if key in rows], dim=-1)


def test_a_run_trains_rows_of_the_result_and_saves_them_as_such(run_graph, family: str):
    graph, node = train(family, f"late {family}", 3)
    outputs = run_graph(graph)
    bundle, report = outputs[node, 0], outputs[node, 5]
    assert "encode prompts with Encode with Output Embeddings" in report
    assert not bundle.embeddings and set(bundle.outputs) == {"tok"}
    assert set(bundle.outputs["tok"]) == ({"clip_l"} if family == "sd15" else {"clip_l", "clip_g"})


def test_what_is_trained_is_what_the_saved_bundle_encodes(host, run_graph, family: str):
    """The conditioning under the training's own text port, against the node's, to the last bit."""
    graph, node = train(family, f"same {family}", 2)
    bundle = run_graph(graph)[node, 0]
    clip = host.loaded[family].clip
    with gradients():
        text = HostTextEncoder(clip)
        rows = {k: torch.nn.Parameter(v) for k, v in bundle.outputs["tok"].items()}
        with text.attach({}, {}, {"tok": rows}):
            (encoded,) = text.encode([("a photo of ", Mention("tok"), " in snow")])
            encoded.tensors["cond"].square().sum().backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in rows.values())
    named = bind_names(clip, bundle, NameRules(), "x")[0]
    found, count = encode_with_outputs(named, "a photo of embedding:tok in snow")
    assert count == sum(len(one) for one in rows.values())
    torch.testing.assert_close(found[0][0], encoded.tensors["cond"].detach(), rtol=0, atol=1e-6)


def test_the_rows_start_from_what_the_encoders_return_for_the_words(host, family: str):
    clip = host.loaded[family].clip
    rows = initial_outputs([CONCEPT], HostTextEncoder(clip), 0)["TOK"]
    cond = clip.encode_from_tokens(clip.tokenize("small dog"))
    torch.testing.assert_close(joined(dict(rows)).detach(), cond[0, 1:3], rtol=0, atol=1e-6)


def test_the_loss_is_differentiated_through_the_network(host, sd15):
    """Backward through the whole model against finite differences in the trained rows."""
    with gradients():
        text = HostTextEncoder(sd15.clip)
        denoiser = HostDenoiser(sd15.model, checkpointing=False, companions=text.companions)
        rows = initial_outputs([CONCEPT], text, 0)["TOK"]
        latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        position = torch.tensor([0.6], dtype=torch.float64)

        def loss() -> torch.Tensor:
            noised = denoiser.noised(latent, latent.flip(-1), position)
            conditions = text.encode([("a ", Mention("TOK"))])
            return denoiser.predict(noised, conditions, [CROP]).square().sum()

        with text.attach({}, {}, {"TOK": rows}), denoiser.attach({}):
            loss().backward()
            grad = rows["clip_l"].grad
            assert grad is not None
            way = grad / grad.norm()
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    rows["clip_l"] += sign * 0.05 * way
                    values.append(loss().item())
                    rows["clip_l"] -= sign * 0.05 * way
    assert (values[0] - values[1]) / 0.1 == pytest.approx(grad.norm().item(), rel=0.02)


def test_a_run_with_output_embeddings_resumes_bit_for_bit(host, run_graph, sd15):
    write_pictures(host.base / "input" / "late", ["a picture of TOK", "TOK on grass", "a hill"])
    graph, node = train("sd15", "whole", 4)
    whole = run_graph(graph)[node, 0]
    graph, node = train("sd15", "cut", 2)
    run_graph(graph)
    graph, node = train("sd15", "cut", 4)
    resumed = run_graph(graph)[node, 0]
    assert torch.equal(whole.outputs["tok"]["clip_l"], resumed.outputs["tok"]["clip_l"])


def test_at_its_pivot_an_output_embedding_is_frozen(host, run_graph, sd15):
    write_pictures(host.base / "input" / "late", ["a picture of TOK", "TOK on grass", "a hill"])
    results = []
    for steps, pivot in ((2, 1.0), (4, 0.5)):
        graph = Graph()
        concept = graph.concept(output=True, pivot=pivot)
        adapter = graph.add("Pivotal_Lora", rank=2).out()
        node = graph.train(
            graph.base("sd15"), "late", run_name=f"pivot {steps}", steps=steps,
            concepts=concept, adapter=adapter,
        )  # fmt: skip
        graph.keep(node.out(5))
        results.append(run_graph(graph)[node, 0])
    first, last = results
    assert torch.equal(first.outputs["tok"]["clip_l"], last.outputs["tok"]["clip_l"])
    assert any(not torch.equal(first.lora[key], last.lora[key]) for key in first.lora)


def test_an_encoder_whose_rows_are_not_known_is_refused_before_any_work(host, run_graph):
    write_pictures(host.base / "input" / "late", ["a picture of TOK", "a hill"])
    with torch.inference_mode():
        model, clip, vae = families.load("flux")
    host.loaded["flux"] = Loaded(model=model, clip=clip, vae=vae, path=host.base)
    try:
        graph, _ = train("flux", "refused", 2)
        with pytest.raises(GraphFailed, match="Output embeddings cannot be trained with this text"):
            run_graph(graph)
    finally:
        del host.loaded["flux"]
