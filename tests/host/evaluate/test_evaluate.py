"""Compare Grid and Concept Report: each picture against a graph of plain nodes."""

from __future__ import annotations

import json
from typing import Any

import comfy.model_management
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from factories import lora
from harness.host.graphs import Graph, Link
from harness.host.runner import GraphFailed, GraphInterrupted, Host, Loaded
from pack.bundles.bundle import Bundle, Entry
from pack.nodes.host.evaluate.grid_run import spell
from pack.nodes.host.sampling import Sampling
from pack.training.evaluation.grid import grid_layout
from pack.training.evaluation.metrics import mean_difference

STEPS, CFG, SEED = 2, 3.0, 5
# A sampler that draws noise of its own at each step.
SAMPLER = {"sampler_name": "euler_ancestral", "scheduler": "karras"}
NEGATIVE = "blurry"
PROMPTS = ["a photo of a dog", "a drawing of {name} on grass"]


@pytest.fixture(scope="module")
def bundle(sd15: Loaded) -> Bundle:
    """A LoRA of model and text encoder that is easily seen, and two names."""
    return make_bundle(sd15.model, ["tok", "other"], seed=1)


def make_bundle(model: Any, names: list[str], seed: int) -> Bundle:
    layers = {
        f"diffusion_model.{name}": (module.out_features, module.in_features)
        for name, module in model.model.diffusion_model.named_modules()
        if name.endswith(("to_q", "to_v"))
    }
    layers["lora_te_text_model_encoder_layers_0_self_attn_v_proj"] = (768, 768)
    rng = torch.Generator().manual_seed(seed)
    return Bundle(
        family="sd15",
        lora=lora(layers, rank=2, seed=seed, size=0.3),
        embeddings={n: {"clip_l": 0.4 * torch.randn(2, 768, generator=rng)} for n in names},
        entries=tuple(Entry(name=name, initial="dog") for name in names),
    )


def grid_settings(**settings: Any) -> dict[str, Any]:
    """Small and fast."""
    small = {
        "seeds": str(SEED), "steps": STEPS, "cfg": CFG, "width": 64, "height": 64,
        "negative": NEGATIVE, **SAMPLER,
    }  # fmt: skip
    return {**small, **settings}


def add_grid(graph: Graph, base: tuple[Link, Link, Link], **settings: Any):
    model, clip, vae = base
    return graph.add(
        "Pivotal_CompareGrid", model=model, clip=clip, vae=vae, **grid_settings(**settings)
    )


def plain(graph: Graph, base: tuple[Link, Link, Link], prompt: str, seed: int = SEED):
    """What a user would build from the host's own nodes; the decoded picture is kept."""
    model, clip, vae = base
    positive = graph.add("CLIPTextEncode", clip=clip, text=prompt).out()
    negative = graph.add("CLIPTextEncode", clip=clip, text=NEGATIVE).out()
    empty = graph.add("EmptyLatentImage", width=64, height=64).out()
    sampled = graph.add(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=empty,
        seed=seed, steps=STEPS, cfg=CFG, **SAMPLER,
    )  # fmt: skip
    decoded = graph.add("VAEDecode", samples=sampled.out(), vae=vae)
    graph.keep(decoded.out())
    return decoded


def with_bundle(graph: Graph, base, bundle: Link, strength: float):
    loaded = graph.add(
        "Pivotal_LoadBundle", model=base[0], clip=base[1], bundle=bundle,
        strength_model=strength, strength_clip=strength,
    )  # fmt: skip
    return loaded.out(0), loaded.out(1), base[2]


def as_saved(picture: Tensor) -> np.ndarray:
    """A picture as the host's Save Image writes it."""
    return np.clip(255.0 * picture.cpu().numpy(), 0, 255).astype(np.uint8)


def saved_grid(host: Host, outputs: Any, node: str) -> Image.Image:
    (entry,) = outputs.ui[node]["images"]
    path = host.base / "output" / entry["subfolder"] / entry["filename"]
    assert entry["type"] == "output"
    return Image.open(path)


def cell(grid: Image.Image, layout: Any, row: int, column: int) -> np.ndarray:
    left, top = layout.corner(row, column)
    return np.asarray(grid.crop((left, top, left + layout.cell[0], top + layout.cell[1])))


@pytest.fixture(scope="module")
def compared(host: Host, run_graph, sd15: Loaded, bundle: Bundle) -> dict[str, Any]:
    """One grid of 2 prompts x (base + 2 strengths), and each of its pictures by plain nodes."""
    graph = Graph()
    base, given = graph.base("sd15"), graph.give(bundle)
    grid = add_grid(
        graph, base, prompts="\n".join(PROMPTS), without="a dog", strengths="0, 1",
        bundle_1=given, filename_prefix="pivotal/test_grid",
    )  # fmt: skip
    graph.keep(grid.out())
    words = "embedding:tok, embedding:other"
    plain_nodes = []
    for prompt in PROMPTS:
        row = [plain(graph, base, prompt.replace("{name}", "a dog"))]
        for strength in (0.0, 1.0):
            models = with_bundle(graph, base, given, strength)
            row.append(plain(graph, models, prompt.replace("{name}", words)))
        plain_nodes.append(row)
    outputs = run_graph(graph, extra_pnginfo={"workflow": {"nodes": []}})
    return {
        "grid": outputs[grid, 0],
        "pictures": outputs[grid, 1],
        "report": outputs[grid, 2],
        "plain": [[outputs[node, 0][0] for node in row] for row in plain_nodes],
        "saved": saved_grid(host, outputs, grid),
    }


def grid_labels() -> tuple[list[str], list[str], str]:
    across = ["without bundle", *(f"bundle 1: tok, other\nstrength {s}" for s in (0, 1))]
    settings = Sampling(steps=STEPS, cfg=CFG, width=64, height=64, **SAMPLER)
    return PROMPTS, across, settings.text()


def test_each_picture_is_that_of_the_plain_graph_bit_for_bit(compared: dict[str, Any]):
    columns = [list(column) for column in zip(*compared["plain"], strict=True)]
    expected = torch.stack([picture for column in columns for picture in column])
    assert torch.equal(compared["pictures"], expected)
    assert len({picture.numpy().tobytes() for picture in expected}) == 5  # the 6th: see below


def test_each_cell_of_the_saved_grid_is_the_plain_picture(compared: dict[str, Any]):
    rows, across, title = grid_labels()
    layout = grid_layout(rows, across, (64, 64), title)
    assert compared["saved"].size == layout.size
    for row, line in enumerate(compared["plain"]):
        for column, picture in enumerate(line):
            found = cell(compared["saved"], layout, row, column)
            assert np.array_equal(found, as_saved(picture)), (row, column)


def test_the_output_is_the_saved_grid_and_the_file_holds_the_workflow(compared: dict[str, Any]):
    assert np.array_equal(as_saved(compared["grid"][0]), np.asarray(compared["saved"]))
    assert json.loads(compared["saved"].text["workflow"]) == {"nodes": []}
    assert "Pivotal_CompareGrid" in compared["saved"].text["prompt"]


def test_strength_0_is_the_base_where_no_name_is_used(compared: dict[str, Any]):
    base, zero, one = compared["plain"][0]
    assert torch.equal(base, zero)
    assert not torch.equal(base, one)


def test_the_report_says_what_was_sent_and_how_far_it_went(compared: dict[str, Any]):
    report = compared["report"].splitlines()
    assert report[0].startswith("6 images in ")
    assert report[1:4] == ["without bundle", "  a photo of a dog", "  a drawing of a dog on grass"]
    base, zero, one = zip(*compared["plain"], strict=True)
    away = 100 * mean_difference(torch.stack(base), torch.stack(one))
    assert f"bundle 1: tok, other, strength 1: {away:.2f} % from the base" in report
    assert "  a drawing of embedding:tok, embedding:other on grass" in report


def test_bundles_and_seeds_each_get_their_own_cells(run_graph, host, sd15: Loaded, bundle: Bundle):
    second = make_bundle(sd15.model, ["tok"], seed=2)
    graph = Graph()
    node = add_grid(
        graph, graph.base("sd15"), prompts="{tok} and {other}", without="cat", strengths="1",
        seeds="1-2", with_base=False, labels="first run\nsecond run",
        layout="bundles down, prompts across", bundle_2=graph.give(bundle),
        bundle_4=graph.give(second),
    )  # fmt: skip
    outputs = run_graph(graph)
    pictures, report = outputs[node, 1], outputs[node, 2]
    assert len({picture.numpy().tobytes() for picture in pictures}) == 4
    assert report.splitlines()[1:] == [
        "first run, strength 1",
        "  embedding:tok and embedding:other",
        "second run, strength 1",
        "  embedding:tok and cat",
    ]
    saved = saved_grid(host, outputs, node)
    layout = grid_layout(
        ["first run\nstrength 1", "second run\nstrength 1"],
        ["{tok} and {other}\nseed 1", "{tok} and {other}\nseed 2"],
        (64, 64),
        grid_labels()[2],
    )
    assert saved.size == layout.size
    for number, picture in enumerate(pictures):
        found = cell(saved, layout, number // 2, number % 2)
        assert np.array_equal(found, as_saved(picture))


def test_large_pictures_are_made_smaller_in_the_grid_only(run_graph, sd15: Loaded):
    graph = Graph()
    node = add_grid(graph, graph.base("sd15"), prompts="a dog", height=32, cell_size=16)
    outputs = run_graph(graph)
    assert outputs[node, 1].shape == (1, 32, 64, 3)
    layout = grid_layout(["a dog"], ["without bundle"], (16, 8), grid_labels()[2])
    assert outputs[node, 0].shape[2] == layout.size[0]


def test_a_concept_report_shows_each_name_with_and_without(
    host, run_graph, sd15: Loaded, bundle: Bundle
):
    graph = Graph()
    base, given = graph.base("sd15"), graph.give(bundle)
    settings = grid_settings(prompt="a photo of {name}", bundle=given)
    node = graph.add("Pivotal_ConceptReport", model=base[0], clip=base[1], vae=base[2], **settings)
    tuned = with_bundle(graph, base, given, 1.0)
    expected = {
        "tok": plain(graph, tuned, "a photo of embedding:tok"),
        "other": plain(graph, tuned, "a photo of embedding:other"),
        "word": plain(graph, tuned, "a photo of dog"),
        "base": plain(graph, base, "a photo of dog"),
    }
    outputs = run_graph(graph)
    made = {name: outputs[found, 0][0] for name, found in expected.items()}
    assert len(outputs[node, 1]) == 4  # what two cells share is made once
    rows = [["tok", "word", "base", "other"], ["other", "word", "base", "tok"]]
    labels = [f'{row[0]}\nwithout: "dog"\nother: {row[3]}\nseed {SEED}' for row in rows]
    across = [
        "with the concept", "without it, LoRA on", "without it, base model",
        "another name in its place",
    ]  # fmt: skip
    layout = grid_layout(labels, across, (64, 64), grid_labels()[2])
    saved = saved_grid(host, outputs, node)
    assert saved.size == layout.size
    for row, line in enumerate(rows):
        for column, name in enumerate(line):
            assert np.array_equal(cell(saved, layout, row, column), as_saved(made[name])), name
    report = outputs[node, 2]
    assert "embedding:tok (vectors: 2 in clip_l)" in report
    away = 100 * mean_difference(made["word"], made["base"])
    assert f'{away:.2f} % is what the LoRA alone does to "dog"' in report


def test_cancel_ends_a_grid_while_it_samples(run_graph, sd15: Loaded, monkeypatch):
    """The callback of the first step asks for it, as the Cancel button does."""
    from pack.nodes.host import sampling

    seen: list[int] = []

    class Cancelling(sampling.comfy.utils.ProgressBar):
        def update_absolute(self, value, total=None, preview=None):
            seen.append(value)
            comfy.model_management.interrupt_current_processing()

    monkeypatch.setattr(sampling.comfy.utils, "ProgressBar", Cancelling)
    graph = Graph()
    node = add_grid(graph, graph.base("sd15"), prompts="a dog\na cat", steps=4)
    with pytest.raises(GraphInterrupted) as ended:
        run_graph(graph)
    assert str(node) in str(ended.value)
    assert seen == [1]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"prompts": " \n"}, "There is no prompt: write at least one line"),
        ({"prompts": "a", "with_base": False}, "Nothing to compare: connect a bundle"),
        ({"prompts": "a", "strengths": "strong"}, 'strengths is "strong": write numbers'),
        ({"prompts": "a", "seeds": "one"}, '"one" is not a seed'),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_sentence(run_graph, sd15, settings, sentence):
    graph = Graph()
    add_grid(graph, graph.base("sd15"), **settings)
    with pytest.raises(GraphFailed, match=sentence):
        run_graph(graph)


def test_names_are_spelled_for_each_bundle():
    known = {"cat", "fox"}
    assert spell("{name} on {surface}", ["cat"], known, "dog") == "embedding:cat on {surface}"
    assert spell("{fox} and {cat}", ["cat"], known, "dog") == "dog and embedding:cat"
    assert spell("{name}", [], known, "dog") == "dog"
