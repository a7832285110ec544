"""A bundle's names on one CLIP: what they mean, and that nobody else sees them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.sd1_clip
import folder_paths
import pytest
import torch
from torch import Tensor

from factories import lora, random_vectors
from harness.host.graphs import Graph
from harness.host.runner import GraphFailed, Loaded
from harness.models.embeddings import (
    Vectors,
    clip_with_files,
    clip_with_names,
    write_loose,
)
from pack.bundles.bundle import Bundle
from pack.bundles.save import Container, save_bundle


@dataclass(frozen=True)
class Side:
    """One family: its CLIP, the same CLIP with an embeddings folder, and that folder."""

    family: str
    loaded: Loaded
    host: Any
    folder: Path

    def vectors(self, seed: int, count: int = 2) -> Vectors:
        return random_vectors(self.family, seed, count)

    def knows(self, **named: Vectors) -> Any:
        """The CLIP with names of ours."""
        return clip_with_names(self.loaded.clip, named)


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def side(request, tmp_path_factory) -> Side:
    loaded = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp("embeddings")
    host = clip_with_files(loaded.path, request.param, [str(folder)])
    return Side(request.param, loaded, host, folder)


@pytest.fixture(scope="module")
def sd15_side(sd15, tmp_path_factory) -> Side:
    folder = tmp_path_factory.mktemp("embeddings")
    return Side("sd15", sd15, clip_with_files(sd15.path, "sd15", [str(folder)]), folder)


def encode(clip: Any, text: str) -> tuple[Tensor, Tensor]:
    """Conditioning and pooled output."""
    return clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def tokens(clip: Any, text: str) -> dict[str, list[list[tuple[Any, float]]]]:
    """The host's tokens in a form that can be compared."""
    return {
        key: [
            [(token.tolist() if torch.is_tensor(token) else token, weight) for token, weight in one]
            for one in chunks
        ]
        for key, chunks in clip.tokenize(text).items()
    }


WEIGHTED = "embedding:tok, (embedding:tok:1.3) and ((a dog)) on (grass:0.7)"
LONG = ", ".join(["a long prompt that fills the window"] * 8 + ["embedding:tok", "embedding:tok"])


@pytest.mark.parametrize(("prompt", "count"), [(WEIGHTED, 2), (LONG, 9)])
def test_a_name_is_the_hosts_loose_file_bit_for_bit(side, prompt, count):
    vectors = side.vectors(1, count)
    write_loose(side.folder, "tok", vectors)
    ours = encode(side.knows(tok=vectors), prompt)
    assert same(ours, encode(side.host, prompt))
    other = encode(side.knows(tok=side.vectors(2, count)), prompt)
    assert not torch.equal(ours[0], other[0]) and not torch.equal(ours[1], other[1])


def test_sixteen_names_each_mean_their_own_vectors(side):
    named = {f"thing{number}": side.vectors(number) for number in range(16)}
    clip = side.knows(**named)
    for name, vectors in named.items():
        write_loose(side.folder, name, vectors)
        prompt = f"a photo of embedding:{name}"
        assert tokens(clip, prompt) == tokens(side.host, prompt)
    together = " and ".join(f"embedding:{name}" for name in named)
    assert same(encode(clip, together), encode(side.host, together))


# name, prompt, the same prompt as the host reads it with the name "plain"
BOTH_READ = [
    ("x", "embedding:x on grass", "embedding:plain on grass"),
    ("x", "a\nembedding:x\nb", "a embedding:plain b"),
    ("x", "a embedding:x, b", "a embedding:plain, b"),
    ("x", "a embedding: x b", "a embedding:plain b"),
    ("x", "a embedding:x.safetensors b", "a embedding:plain b"),
    ("x", "(embedding:x:1.3) b", "(embedding:plain:1.3) b"),
    ("x", "(a embedding:x) b", "(a embedding:plain) b"),
    ("v1.0", "a embedding:v1.0, b", "a embedding:plain, b"),
    ("sub/x", "a embedding:sub/x b", "a embedding:plain b"),
    ("A(b)", r"a embedding:A\(b\) c", "a embedding:plain c"),
    ("a:b", "a embedding:a:b c", "a embedding:plain c"),
]
ONLY_OURS = [
    ("x", "a,embedding:x b", "a, embedding:plain b"),
    ("x", '"embedding:x" b', '" embedding:plain " b'),
    ("x", "'embedding:x' b", "' embedding:plain ' b"),
    ("x", "[embedding:x] b", "[ embedding:plain ] b"),
    ("x", "a embedding:x. b", "a embedding:plain . b"),
    ("x", "a embedding:x; b", "a embedding:plain ; b"),
    ("x", "a embedding:x|b", "a embedding:plain |b"),
    ("x", "a embedding:x! b", "a embedding:plain ! b"),
    ("x", "a embedding:x? b", "a embedding:plain ? b"),
    ("x", "a embedding:x:1.3 b", "a embedding:plain :1.3 b"),
    ("x", "a embedding:x，b", "a embedding:plain ，b"),
    ("x", "a embedding:x。", "a embedding:plain 。"),
    ("x", "a embedding:x… b", "a embedding:plain … b"),
    ("x", "a embedding:x* b", "a embedding:plain * b"),
    ("x", "a {embedding:x} b", "a { embedding:plain } b"),
    ("x", r"a \(embedding:x\) b", r"a \( embedding:plain \) b"),
    ("x", "a embedding:x,embedding:x", "a embedding:plain, embedding:plain"),
    ("x", "a Embedding:x b", "a embedding:plain b"),
    ("my dog", "a embedding:my dog runs", "a embedding:plain runs"),
    ("<s0>", "a embedding:<s0> b", "a embedding:plain b"),
    ("<s0><s1>", "a embedding:<s0><s1> b", "a embedding:plain b"),
    ("<embedding>", "a embedding:<embedding> b", "a embedding:plain b"),
    ("[cat]", "a embedding:[cat] b", "a embedding:plain b"),
    ("A(b)", "a embedding:A(b) c", "a embedding:plain c"),
    ("2", "(embedding:2) b", "(embedding:plain) b"),
    ("nan", "(embedding:nan) b", "(embedding:plain) b"),
]


def read(side: Side, name: str, prompt: str, meaning: str) -> tuple[Any, Any, Any]:
    """Tokens by the overlay, by the host with a file of that name, and as they should be."""
    vectors = side.vectors(2)
    for known in (name, "plain"):
        write_loose(side.folder, known, vectors)
    ours = tokens(side.knows(**{name: vectors}), prompt)
    return ours, tokens(side.host, prompt), tokens(side.host, meaning)


@pytest.mark.parametrize(("name", "prompt", "meaning"), BOTH_READ)
def test_what_the_host_reads_means_the_same_with_the_overlay(sd15_side, name, prompt, meaning):
    ours, host, wanted = read(sd15_side, name, prompt, meaning)
    assert host == wanted
    assert ours == wanted


@pytest.mark.parametrize(("name", "prompt", "meaning"), ONLY_OURS)
def test_the_overlay_reads_what_the_host_alone_loses(sd15_side, name, prompt, meaning):
    ours, host, wanted = read(sd15_side, name, prompt, meaning)
    assert host != wanted
    assert ours == wanted


@pytest.mark.parametrize("ending", [".0", "/y", "-2", "_2", "2", "s", "\\y"])
def test_longer_words_are_not_taken_for_the_name(sd15_side, ending):
    prompt = f"a embedding:ghost{ending} b"
    known = sd15_side.knows(ghost=sd15_side.vectors(3))
    assert tokens(known, prompt) == tokens(sd15_side.host, prompt)


def test_the_longest_name_is_found_first(sd15_side):
    named = {
        name: sd15_side.vectors(seed) for seed, name in enumerate(["cat", "cat house", "a cat"])
    }
    clip = sd15_side.knows(**named)
    for name, vectors in named.items():
        alone = sd15_side.knows(only=vectors)
        assert tokens(clip, f"in embedding:{name}, b") == tokens(alone, "in embedding:only, b")


@pytest.mark.parametrize("prompt", ["embedding:", "a embedding: ", "(embedding:)"])
def test_a_name_that_is_missing_is_no_failure(sd15_side, prompt):
    with pytest.raises(IndexError):
        sd15_side.host.tokenize(prompt)
    assert sd15_side.knows(x=sd15_side.vectors(3)).tokenize(prompt)


def test_a_name_is_found_in_any_capitals_unless_another_fits_better(
    sd15_side: Side, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    mine, other = sd15_side.vectors(3), sd15_side.vectors(4)
    clip = sd15_side.knows(tok=mine)
    wanted = encode(clip, "a embedding:tok b")
    for spelled in (
        "embedding:TOK",
        "Embedding:Tok",
        "EMBEDDING: tOK",
        "embedding:TOK.safetensors",
    ):
        assert same(encode(clip, f"a {spelled} b"), wanted), spelled
    both = sd15_side.knows(tok=mine, TOK=other)
    assert same(
        encode(both, "a embedding:TOK b"), encode(sd15_side.knows(x=other), "a embedding:x b")
    )
    # A file that has exactly these capitals is what the host would take.
    write_loose(tmp_path, "TOK", other)
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "embeddings", ([str(tmp_path)], {".safetensors"})
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    assert not same(encode(clip, "a embedding:TOK b"), wanted)
    assert same(encode(clip, "a embedding:toK b"), wanted)


@pytest.mark.parametrize("prompt", ["一张{}的照片", "{}は草の上", "{}이 있는", "a {}, b"])
def test_a_name_between_letters_of_scripts_without_blanks_is_found(sd15_side: Side, prompt: str):
    clip, plain = sd15_side.knows(tok=sd15_side.vectors(3)), sd15_side.loaded.clip
    text = prompt.format("embedding:tok")
    vectors = [t for chunk in clip.tokenize(text)["l"] for t, _ in chunk if torch.is_tensor(t)]
    assert len(vectors) == 2
    assert not same(encode(clip, text), encode(plain, prompt.format("")))


@pytest.mark.parametrize("name", ["क", "か", "e"])
def test_half_of_a_letter_and_its_mark_is_no_name(sd15_side: Side, name: str):
    clip = sd15_side.knows(**{name: sd15_side.vectors(3)})
    for mark in ("\u093f", "\u3099", "\u0301"):
        found = clip.tokenize(f"embedding:{name}{mark} x")["l"]
        assert not any(torch.is_tensor(token) for chunk in found for token, _ in chunk), mark


def test_the_original_clip_is_not_touched(side):
    clip, kind = side.loaded.clip, comfy.sd1_clip.SDTokenizer
    tokenizer, parts = clip.tokenizer, dict(vars(clip.tokenizer))
    leaf, of_class = dict(vars(tokenizer.clip_l)), dict(vars(kind))
    load_embed, before = comfy.sd1_clip.load_embed, encode(clip, "a embedding:tok b")
    named = side.knows(tok=side.vectors(4))
    assert not same(encode(named, "a embedding:tok b"), before)
    assert clip.tokenizer is tokenizer and vars(tokenizer) == parts
    assert type(tokenizer.clip_l) is kind and vars(tokenizer.clip_l) == leaf
    assert dict(vars(kind)) == of_class and comfy.sd1_clip.load_embed is load_embed
    assert same(encode(clip, "a embedding:tok b"), before)
    assert named.cond_stage_model is clip.cond_stage_model


def bundle(side: Side, *names: str, seed: int = 5, rank: int = 2) -> Bundle:
    """A bundle with names and a LoRA on one layer that is in every fixture."""
    model = side.loaded.model.model.diffusion_model
    layer = next(n for n, m in model.named_modules() if n.endswith("attn2.to_k"))
    shapes = {f"diffusion_model.{layer}": model.get_submodule(layer).weight.shape}
    vectors = {name: side.vectors(seed + place) for place, name in enumerate(names)}
    weights = lora(shapes, rank=rank, alpha=1.0, seed=seed)
    return Bundle(family=side.family, lora=weights, embeddings=vectors)


PHOTO = "a photo of embedding:cat"


def branch(graph: Graph, family: str, made: Bundle | None) -> tuple[str, str]:
    """Sample a photo of the cat with a bundle, or without one; also give its conditioning."""
    model, clip, _ = graph.base(family)
    if made is not None:
        node = graph.add("Pivotal_LoadBundle", model=model, clip=clip, bundle=graph.give(made))
        model, clip = node.out(0), node.out(1)
    sampled = graph.sample(model, clip, PHOTO, steps=1)
    return sampled, graph[sampled]["inputs"]["positive"][0]


def results(outputs: Any, nodes: tuple[str, str]) -> list[Tensor]:
    """Latents, conditioning and pooled output of a branch."""
    sampled, encoded = nodes
    cond, extra = outputs[encoded, 0][0]
    return [outputs[sampled, 0]["samples"], cond, extra["pooled_output"]]


def test_one_name_in_two_branches_does_not_leak(side, run_graph):
    """Two bundles that both hold "cat", and a branch without any: together and each alone."""
    bundles = [bundle(side, "cat", seed=5), bundle(side, "cat", seed=50), None]
    alone = []
    for made in bundles:
        graph = Graph()
        nodes = branch(graph, side.family, made)
        alone.append(results(run_graph(graph), nodes))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not any(map(torch.equal, alone[a], alone[b]))
    for order in ((0, 1, 2), (2, 1, 0)):
        graph = Graph()
        nodes = {place: branch(graph, side.family, bundles[place]) for place in order}
        outputs = run_graph(graph)
        for place, wanted in enumerate(alone):
            assert all(map(torch.equal, results(outputs, nodes[place]), wanted))


def test_a_bundle_that_is_dropped_leaves_the_hosts_books_in_order(side, run_graph):
    """A loaded model that nobody owns makes the host collect garbage at every later load."""
    graph = Graph()
    branch(graph, side.family, bundle(side, "cat"))
    run_graph(graph)
    gc.collect()
    assert not any(loaded.is_dead() for loaded in management.current_loaded_models)


def test_later_clones_keep_the_names(side, run_graph, host):
    """CLIP Set Last Layer and another LoRA after Load Bundle; the LoRA has no text half here."""
    loras = Path(folder_paths.get_output_directory(), "loras")
    folder_paths.add_model_folder_path("loras", str(loras))
    made = bundle(side, "cat")
    other = bundle(side, seed=60)
    loras.mkdir(parents=True, exist_ok=True)
    file = f"other_{side.family}.safetensors"
    (loras / file).unlink(missing_ok=True)
    save_bundle(other, loras / file, Container.A1111, torch.float32)
    graph = Graph()
    model, clip, _ = graph.base(side.family)
    loaded = graph.add("Pivotal_LoadBundle", model=model, clip=clip, bundle=graph.give(made))
    lora = graph.add("LoraLoader", model=loaded.out(0), clip=loaded.out(1), lora_name=file)
    last = graph.add("CLIPSetLastLayer", clip=lora.out(1), stop_at_clip_layer=-2)
    kept = graph.keep(last.out())
    named = run_graph(graph)[kept, 0]
    # The executor and the CLIPs before this one go now, while the last of them is in use.
    gc.collect()
    write_loose(side.folder, "cat", made.embeddings["cat"])
    wanted = side.host.clone()
    wanted.clip_layer(-2)
    assert same(encode(named, PHOTO), encode(wanted, PHOTO))


def load(
    run_graph: Callable[..., Any], side: Side, made: Bundle, **settings: Any
) -> tuple[Any, str, str]:
    """CLIP, triggers and report of Load Bundle."""
    graph = Graph()
    model, clip, _ = graph.base(side.family)
    node = graph.add(
        "Pivotal_LoadBundle", model=model, clip=clip, bundle=graph.give(made), **settings
    )
    kept = [graph.keep(node.out(index)) for index in (1, 2, 3)]
    outputs = run_graph(graph)
    return tuple(outputs[one, 0] for one in kept)


def test_load_bundle_says_what_to_type(side, run_graph):
    _, triggers, report = load(run_graph, side, bundle(side, "cat", "tom"))
    assert triggers == "embedding:cat, embedding:tom"
    assert triggers in report and "3 LoRA tensors" in report


def test_a_name_can_be_renamed(side, run_graph):
    made = bundle(side, "ghost", "dog")
    clip, triggers, _ = load(run_graph, side, made, names="ghost = tom")
    plain = side.knows(**made.embeddings)
    assert triggers == "embedding:tom, embedding:dog"
    assert tokens(clip, "a embedding:tom") == tokens(plain, "a embedding:ghost")
    assert tokens(clip, "a embedding:dog") == tokens(plain, "a embedding:dog")
    assert tokens(clip, "a embedding:ghost") == tokens(side.host, "a embedding:ghost")


def test_strength_scales_the_vectors_of_one_name(side, run_graph):
    made = bundle(side, "cat", "dog")
    clip, _, _ = load(run_graph, side, made, names="cat : 0.5")
    half = {key: 0.5 * rows for key, rows in made.embeddings["cat"].items()}
    wanted = side.knows(cat=half, dog=made.embeddings["dog"])
    text = "a embedding:cat, a embedding:dog"
    assert tokens(clip, text) == tokens(wanted, text)


def test_a_name_can_be_renamed_and_scaled_in_one_line(side, run_graph):
    made = bundle(side, "cat")
    clip, _, _ = load(run_graph, side, made, names="\n cat = tom : 0.5 \n")
    half = {key: 0.5 * rows for key, rows in made.embeddings["cat"].items()}
    wanted = tokens(side.knows(cat=half), "a embedding:cat")
    assert tokens(clip, "a embedding:tom") == wanted


def test_a_minus_switches_a_name_off(side, run_graph):
    made = bundle(side, "ghost", "dog")
    clip, triggers, _ = load(run_graph, side, made, names="-ghost")
    assert triggers == "embedding:dog"
    assert tokens(clip, "a embedding:ghost") == tokens(side.host, "a embedding:ghost")


def test_the_names_are_loaded_without_the_lora(side, run_graph):
    made = bundle(side, "cat")
    clip, _, _ = load(run_graph, side, made, strength_model=0.0, strength_clip=0.0)
    assert tokens(clip, PHOTO) == tokens(side.knows(**made.embeddings), PHOTO)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("mouse : 0.5", 'The bundle has no name "mouse": it has cat, dog.'),
        ("-mouse", 'The bundle has no name "mouse": it has cat, dog.'),
        ("cat = tom : much", '"cat = tom : much" in names is not understood: write old = new'),
        ("cat : nan", '"cat : nan" in names is not understood: write old = new'),
        ("cat = dog", 'Two names of the bundle become "dog": give them different names.'),
        ("cat = v1.0", "The name 'v1.0' holds a dot"),
        ("cat = 2", "The name '2' is a number"),
    ],
)
def test_names_that_make_no_sense_are_refused(sd15_side, run_graph, names, sentence):
    with pytest.raises(GraphFailed) as caught:
        load(run_graph, sd15_side, bundle(sd15_side, "cat", "dog"), names=names)
    assert sentence in str(caught.value)


def test_one_name_from_two_files_is_refused_with_both(sd15_side, run_graph):
    graph = Graph()
    model, clip, _ = graph.base("sd15")
    loras = Path(folder_paths.get_output_directory(), "loras")
    folder_paths.add_model_folder_path("loras", str(loras))
    for seed, file in enumerate(["first", "second"]):
        (loras / f"{file}.safetensors").unlink(missing_ok=True)
        loras.mkdir(parents=True, exist_ok=True)
        made = bundle(sd15_side, "cat", seed=seed)
        save_bundle(made, loras / f"{file}.safetensors", Container.A1111, torch.float32)
        name = f"loras/{file}.safetensors"
        node = graph.add("Pivotal_LoadBundle", model=model, clip=clip, file=name)
        model, clip = node.out(0), node.out(1)
    graph.keep(clip)
    with pytest.raises(GraphFailed) as caught:
        run_graph(graph)
    sentence = (
        'The name "cat" of loras/second.safetensors is already loaded from '
        "loras/first.safetensors: rename one of them."
    )
    assert sentence in str(caught.value)
