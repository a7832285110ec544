"""Load Bundle's rules for names: strengths, bare words, clashes, fallbacks, files that change."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from factories import bundle, random_vectors
from harness.host.graphs import Graph
from harness.host.runner import GraphFailed
from pack.bundles.bundle import Bundle, Entry
from pack.bundles.save import Container, save_bundle
from pack.nodes.host.text.port import HostTextEncoder
from pack.nodes.host.text.resolve import Clash, NameRules, NameSetting, StrengthMode, bind_names
from pack.nodes.host.text.tokenizer import overlaid_names
from pack.training.words.vectors import spread_rows


def bind(clip: Any, made: Bundle, origin: str = "a.safetensors", **rules: Any) -> Any:
    return bind_names(clip, made, NameRules(**rules), origin)


def tokens(clip: Any, text: str) -> Any:
    return {
        key: [[t.tolist() if torch.is_tensor(t) else t for t, _ in one] for one in chunks]
        for key, chunks in clip.tokenize(text).items()
    }


def vectors_of(clip: Any, name: str) -> torch.Tensor:
    return overlaid_names(clip)[name].vectors["clip_l"]


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 1.5])
def test_strength_moves_from_the_initial_word(sd15, strength):
    made = bundle("cat", initial="a photo")
    start = spread_rows(HostTextEncoder(sd15.clip).rows("a photo")["clip_l"], 2)
    clip, _, _ = bind(
        sd15.clip,
        made,
        settings={"cat": NameSetting(strength=strength)},
        strength_mode=StrengthMode.FROM_INITIAL,
    )
    trained = made.embeddings["cat"]["clip_l"]
    torch.testing.assert_close(vectors_of(clip, "cat"), start + strength * (trained - start))
    if strength == 0:
        # The name is then its initial word, token for token, to the encoder.
        assert torch.equal(vectors_of(clip, "cat"), start)


def test_a_name_without_an_initial_word_cannot_move_from_it(sd15):
    with pytest.raises(ValueError, match='does not name the initial word of "cat"'):
        bind(
            sd15.clip,
            bundle("cat"),
            settings={"cat": NameSetting(strength=0.5)},
            strength_mode=StrengthMode.FROM_INITIAL,
        )


@pytest.mark.parametrize(
    ("prompt", "meaning"),
    [
        ("a TOK on grass", "a embedding:cat on grass"),
        ("a cat, b", "a embedding:cat , b"),
        ("(cat:1.25) b", "(embedding:cat:1.25) b"),
        ("TOK", "embedding:cat"),
        ("a <s0><s1> b", "a embedding:toy b"),
        ("a<s0><s1>b", "a embedding:toy b"),
        ("a embedding:TOK b", "a embedding:cat b"),
        ("a cat-like b", "a embedding:cat -like b"),
        ("no embedding:some-cat b", "no embedding:some-cat b"),
    ],
)
def test_bare_words_stand_for_the_name(sd15, prompt, meaning):
    made = bundle("cat", "toy")
    entries = (Entry(name="cat", placeholder="TOK"), Entry(name="toy", placeholder="<s0><s1>"))
    bare, _, _ = bind(sd15.clip, replace(made, entries=entries), bare_triggers=True)
    plain, _, _ = bind(sd15.clip, replace(made, entries=entries))
    assert tokens(bare, prompt) == tokens(plain, meaning)
    if "embedding" not in prompt:
        assert tokens(plain, prompt) == tokens(sd15.clip, prompt)


@pytest.mark.parametrize("prompt", ["a cats b", "a concat b", "a TOKEN", "a cat_2"])
def test_bare_words_are_whole_words(sd15, prompt):
    bare, _, _ = bind(sd15.clip, bundle("cat", placeholder="TOK"), bare_triggers=True)
    assert tokens(bare, prompt) == tokens(sd15.clip, prompt)


def test_one_bare_word_of_two_bundles_stays_with_the_first(sd15):
    first, _, _ = bind(sd15.clip, bundle("cat", placeholder="TOK"), bare_triggers=True)
    second, _, notes = bind(first, bundle("dog", placeholder="TOK"), bare_triggers=True)
    assert tokens(second, "a TOK") == tokens(second, "a embedding:cat")
    assert notes == ['"TOK" alone stands for "cat", not for "dog".']


CASES = {
    Clash.KEEP: ({"cat": 0}, '"cat" is already loaded from a.safetensors: this one is left out.'),
    Clash.REPLACE: ({"cat": 1}, '"cat" replaces the one of a.safetensors.'),
    Clash.PREFIX: ({"cat": 0, "b_cat": 1}, 'of a.safetensors stays; this one becomes "b_cat".'),
}


@pytest.mark.parametrize("clash", CASES)
def test_a_name_that_is_taken_follows_the_rule(sd15, clash):
    both = [
        bundle("cat"),
        Bundle(family="", lora={}, embeddings={"cat": random_vectors("sd15", 9)}),
    ]
    first, _, _ = bind(sd15.clip, both[0])
    clip, _, notes = bind(first, both[1], origin="loras/b.safetensors", clash=clash)
    wanted, sentence = CASES[clash]
    assert overlaid_names(clip).keys() == wanted.keys() and sentence in notes[0]
    for name, index in wanted.items():
        assert torch.equal(vectors_of(clip, name), both[index].embeddings["cat"]["clip_l"])
    # The earlier CLIP is as it was.
    assert torch.equal(vectors_of(first, "cat"), both[0].embeddings["cat"]["clip_l"])


def test_the_prefix_can_be_chosen(sd15):
    first, _, _ = bind(sd15.clip, bundle("cat"))
    _, names, _ = bind(first, bundle("cat"), clash=Clash.PREFIX, prefix="my ")
    assert names == ["my cat"]


@pytest.mark.parametrize(
    ("fallback", "initial", "reads"),
    [("dog", "", "dog"), ("dog", "cat", "dog"), ("", "cat", "cat"), ("", "", "")],
)
def test_an_encoder_without_vectors_reads_the_fallback(sdxl, fallback, initial, reads):
    half = Bundle(
        family="sdxl",
        lora={},
        embeddings={"toy": {"clip_l": random_vectors("sdxl", 1)["clip_l"]}},
        entries=(Entry(name="toy", initial=initial),),
    )
    clip, _, notes = bind(sdxl.clip, half, fallback=fallback)
    assert tokens(clip, "a embedding:toy b")["g"] == tokens(sdxl.clip, f"a {reads} b")["g"]
    assert tokens(clip, "a embedding:toy b")["l"] != tokens(sdxl.clip, f"a {reads} b")["l"]
    assert ("toy has no vectors for clip_g" in notes[0]) and (f'"{reads}"' in notes[0]) == bool(
        reads
    )


def test_an_output_embedding_is_refused_by_an_ordinary_encode(sd15):
    made = replace(bundle("cat"), outputs={"late": random_vectors("sd15", 3)})
    clip, names, _ = bind(sd15.clip, made)
    assert names == ["cat", "late"] and clip.tokenize("a embedding:cat")
    with pytest.raises(ValueError, match='"late" is an output embedding for clip_l'):
        clip.tokenize("a embedding:late b")


def test_nan_from_a_connected_bundle_is_refused(sd15):
    bad = {"cat": {"clip_l": torch.full((1, 768), float("nan"))}}
    with pytest.raises(ValueError, match="'cat' holds NaN"):
        bind(sd15.clip, Bundle(family="", lora={}, embeddings=bad))


def test_two_threads_do_not_mix_their_names(sd15):
    """Two branches hold one name; each thread reads its own, many times at once."""
    clips = [
        bind(sd15.clip, Bundle(family="", lora={}, embeddings={"cat": random_vectors("sd15", n)}))[
            0
        ]
        for n in (11, 12)
    ]
    wanted = [tokens(clip, "a embedding:cat b") for clip in clips]
    assert wanted[0] != wanted[1]
    mixed: list[int] = []

    def read(number: int) -> None:
        for _ in range(100):
            if tokens(clips[number], "a embedding:cat b") != wanted[number]:
                mixed.append(number)

    threads = [threading.Thread(target=read, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mixed == []


@pytest.fixture
def loras() -> Path:
    folder = Path(folder_paths.get_output_directory(), "loras")
    folder.mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path("loras", str(folder))
    return folder


def load(
    run_graph: Any,
    file: str,
    executor: Any = None,
    outputs: Sequence[int] = (1, 2, 3),
    **settings: Any,
) -> Any:
    """By default the CLIP, the triggers and the report."""
    graph = Graph()
    model, clip, _ = graph.base("sd15")
    node = graph.add("Pivotal_LoadBundle", model=model, clip=clip, file=file, **settings)
    kept = [graph.keep(node.out(index)) for index in outputs]
    made = run_graph(graph, executor)
    return [made[one, 0] for one in kept]


def test_an_overwritten_file_is_noticed(sd15, run_graph, host, loras):
    """By the node, and by the executor that has its result cached."""
    path, executor = loras / "changing.safetensors", host.executor()
    read = []
    for seed in (1, 2):
        save_file({"emb_params": random_vectors("sd15", seed)["clip_l"]}, path)
        os.utime(path, ns=(seed * 10**9, seed * 10**9))
        clip, _, _ = load(run_graph, "loras/changing.safetensors", executor)
        read.append(vectors_of(clip, "changing"))
        again, _, _ = load(run_graph, "loras/changing.safetensors", executor)
        assert again is clip
    assert not torch.equal(*read)


def test_files_beside_the_lora_are_read_and_noticed(sd15, run_graph, host, loras):
    folder = loras / "one"
    (folder / "my_embeddings").mkdir(parents=True, exist_ok=True)
    key = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k"
    lora = {
        f"{key}.lora_up.weight": torch.zeros(320, 2),
        f"{key}.lora_down.weight": torch.ones(2, 768),
    }
    save_file(lora, folder / "my.safetensors")
    executor = host.executor()
    for seed in (1, 2):
        rows = random_vectors("sd15", seed)["clip_l"]
        save_file({"emp_params": rows}, folder / "my_embeddings" / "cat.safetensors")
        os.utime(folder / "my_embeddings" / "cat.safetensors", ns=(seed * 10**9,) * 2)
        clip, triggers, report = load(run_graph, "loras/one/my.safetensors", executor)
        assert triggers == "embedding:cat" and "OneTrainer's files, together with" in report
        assert torch.equal(vectors_of(clip, "cat"), rows)


def test_a_token_map_splits_what_one_file_holds(sd15, run_graph, loras):
    rows = random_vectors("sd15", 5, count=4)["clip_l"]
    save_file({"clip_l": rows}, loras / "run_emb.safetensors")
    clip, triggers, _ = load(run_graph, "loras/run_emb.safetensors", token_map="cat = 1\ndog = 3")
    assert triggers == "embedding:cat, embedding:dog"
    assert torch.equal(vectors_of(clip, "dog"), rows[1:])


def test_a_pt_file_can_be_chosen(sd15, run_graph, loras):
    rows = random_vectors("sd15", 6)["clip_l"]
    torch.save({"string_to_param": {"*": rows}, "name": "old"}, loras / "old.pt")
    clip, _, _ = load(run_graph, "loras/old.pt")
    assert torch.equal(vectors_of(clip, "old"), rows)


def test_bundles_have_a_folder_of_their_own(sd15, run_graph):
    folder = Path(folder_paths.models_dir, "bundles")
    folder.mkdir(parents=True, exist_ok=True)
    save_bundle(bundle("own"), folder / "own.safetensors", Container.HEADER, torch.float32)
    _, triggers, _ = load(run_graph, "bundles/own.safetensors")
    assert triggers == "embedding:own"


def test_lora_tensors_that_fit_nothing_are_told_and_not_logged(sd15, run_graph, loras, caplog):
    key = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k"
    lora = {
        f"{key}.lora_up.weight": torch.ones(320, 2),
        f"{key}.lora_down.weight": torch.ones(2, 768),
    }
    lora["lora_unet_nowhere.lora_up.weight"] = torch.ones(2, 2)
    save_file(lora, loras / "odd.safetensors")
    caplog.clear()
    _, _, report = load(run_graph, "loras/odd.safetensors")
    assert "1 LoRA tensors fit no layer of these models, such as lora_unet_nowhere" in report
    assert "not loaded" not in caplog.text


@pytest.mark.parametrize("family", ["sd15", ""])
@pytest.mark.parametrize("container", [c for c in Container if c is not Container.COG])
def test_layers_that_comfyui_cannot_apply_are_named(sd15, run_graph, loras, container, family):
    """A kind of adapter that it lacks, alone and beside a LoRA, under kohya's names or its own."""
    block = "diffusion_model.input_blocks.1.1.transformer_blocks.0"
    layers = [f"{block}.attn1.to_{one}" for one in "kv"] + [
        f"{block}.attn2.to_{one}" for one in "qv"
    ]
    strange = {f"{layer}.vera_lambda_b": torch.ones(4) for layer in layers}
    strange[f"{layers[0]}.alpha"] = torch.tensor(1.0)
    pair = {
        f"{block}.attn1.to_q.lora_up.weight": torch.ones(320, 2),
        f"{block}.attn1.to_q.lora_down.weight": torch.ones(2, 320),
    }
    for number, lora in enumerate((strange, strange | pair)):
        made = replace(bundle("cat"), lora=lora, family=family)
        stem = f"strange {container.value} {family}{number}"
        save_bundle(made, new(loras / stem / f"{stem}.safetensors"), container, None)
        model, triggers, report = load(
            run_graph, f"loras/{stem}/{stem}.safetensors", outputs=(0, 2, 3)
        )
        assert triggers == "embedding:cat"
        assert report.splitlines()[-1] == (
            "ComfyUI cannot apply adapters saved as vera_lambda_b, so these layers are left "
            f"unchanged: {', '.join(layers[:3])} and 1 more."
        )
        assert len(model.patches) == number


def test_at_strength_zero_the_lora_is_not_looked_at(sd15, run_graph, loras):
    """Names of a file whose LoRA this model could not take."""
    made = bundle("cat")
    foreign = {"lora_unet_nowhere.lora_up.weight": torch.ones(2, 2)}
    save_bundle(replace(made, lora=foreign), new(loras / "far.safetensors"), Container.A1111, None)
    with pytest.raises(GraphFailed, match="None of the bundle's LoRA fits"):
        load(run_graph, "loras/far.safetensors")
    off = {"strength_model": 0.0, "strength_clip": 0.0}
    _, triggers, _ = load(run_graph, "loras/far.safetensors", **off)
    assert triggers == "embedding:cat"


def new(path: Path) -> Path:
    path.unlink(missing_ok=True)
    return path
