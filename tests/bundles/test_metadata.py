"""What the header says, and what becomes of a header that someone made up."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pack.bundles.bundle import Bundle, Entry, as_notes
from pack.bundles.files.safetensors import read_safetensors
from pack.bundles.inspection import inspect_bundle
from pack.bundles.load import load_bundle, peek
from pack.bundles.metadata import INDEX, build_metadata, read_index, resized_header
from pack.bundles.save import Container, save_bundle
from pack.bundles.table_picture import render

LORA = {
    "lora_unet_x.lora_up.weight": torch.ones(8, 4),
    "lora_unet_x.lora_down.weight": torch.ones(4, 8),
    "lora_unet_x.alpha": torch.tensor(2.0),
}


def bundle(family: str = "sdxl", **known: object) -> Bundle:
    embeddings = {"my cat": {"clip_l": torch.ones(1, 768)}}
    entries = (Entry(name="my cat", initial="a cat"),)
    workflow = '{"nodes": []}'
    return Bundle(
        family=family,
        lora=LORA,
        embeddings=embeddings,
        entries=entries,
        workflow=workflow,
        recipe=known,
    )


def metadata(family: str, kind: str = "bundle") -> dict[str, str]:
    lora = {} if kind == "embedding" else LORA
    return build_metadata(bundle(family), title="cats", lora=lora, names=("my cat",), kind=kind)


@pytest.mark.parametrize(
    ("family", "architecture", "implementation", "base"),
    [
        ("sd15", "stable-diffusion-v1", "diffusers", "sd_v1"),
        ("sd2", "stable-diffusion-v2-512", "diffusers", "sd_v2"),
        ("sdxl", "stable-diffusion-xl-v1-base", "generative-models", "sdxl_base_v1-0"),
        ("flux", "flux", "ComfyUI", None),
    ],
)
def test_other_programs_find_the_fields_they_sort_by(
    family: str, architecture: str, implementation: str, base: str | None
) -> None:
    found = metadata(family)
    assert found["modelspec.sai_model_spec"] == "1.0.1"
    assert found["modelspec.architecture"] == f"{architecture}/lora"
    assert found["modelspec.implementation"].endswith(implementation)
    assert found["modelspec.title"] == found["ss_output_name"] == "cats"
    assert datetime.fromisoformat(found["modelspec.date"]).tzinfo is not None
    assert found.get("ss_base_model_version") == base
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("4", "2.0")
    assert all(isinstance(value, str) for value in found.values())


def test_the_words_to_type_are_in_the_header() -> None:
    whole, loose = metadata("sdxl"), metadata("sdxl", "embedding")
    assert whole["modelspec.trigger_phrase"] == "my cat"
    assert whole["modelspec.usage_hint"] == "ComfyUI: embedding:my cat"
    assert loose["modelspec.usage_hint"] == "ComfyUI: embedding:my_cat"
    assert loose["modelspec.architecture"].endswith("/textual-inversion")


def test_layers_of_different_rank_give_no_single_rank() -> None:
    lora = LORA | {"lora_unet_y.lora_down.weight": torch.ones(16, 8)}
    found = build_metadata(bundle(), title="cats", lora=lora, names=(), kind="lora")
    assert "ss_network_dim" not in found and found["ss_network_alpha"] == "2.0"


def test_dropping_the_file_finds_the_graph(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    save_bundle(bundle(), path, Container.A1111, torch.float16)
    assert json.loads(read_safetensors(path)[1]["workflow"]) == {"nodes": []}


def test_the_index_says_back_what_was_written() -> None:
    found = read_index(metadata("sdxl"))
    assert found.family == "sdxl" and found.kind == "bundle" and found.notes == ()
    assert found.entries == (Entry(name="my cat", initial="a cat"),)
    assert found.workflow == '{"nodes": []}'


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, Path("x")])
def test_a_recipe_that_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="The recipe holds what JSON cannot"):
        build_metadata(bundle(loss=value), title="cats", lora=LORA, names=(), kind="lora")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "1",
        '"text"',
        "null",
        '{"recipe": NaN}',
        "[" * 200_000,
        '{"a":' * 200_000,
        "9" * 10_000,
        '{"family": "' + "x" * 17 * 1024**2 + '"}',
    ],
    ids=lambda text: text[:12],
)
def test_an_unreadable_index_costs_only_itself(tmp_path: Path, text: str) -> None:
    save_file(LORA, tmp_path / "b.safetensors", {INDEX: text})
    found = load_bundle(tmp_path / "b.safetensors")
    assert found.lora.keys() == LORA.keys() and found.family == ""
    assert found.notes == ("The file's own description cannot be read and is left out.",)


@pytest.mark.parametrize(
    ("index", "word"),
    [
        ({"family": 7}, "family"),
        ({"family": ["sdxl"]}, "family"),
        ({"family": "x" * 20_000}, "family"),
        ({"family": "\ud800"}, "family"),
        ({"entries": "abc"}, "Concepts"),
        ({"entries": {"name": "x", "initial": 3}}, "Concepts"),
        ({"entries": [None, 1, "x", []]}, "Concepts"),
        ({"entries": [{"name": "x"}, {"name": "x"}]}, "Concepts"),
        ({"entries": [{"name": ""}]}, "Concepts"),
        ({"entries": [{"initial": "x"}]}, "Concepts"),
        ({"entries": [{"name": "x", "placeholder": {}}]}, "Concepts"),
        ({"entries": [0] * 1000}, "Concepts"),
        ({"recipe": []}, "recipe"),
        ({"recipe": "rm -rf"}, "recipe"),
        ({"version": 99}, "newer"),
    ],
)
def test_junk_in_the_index_is_left_out_and_noted(index: dict[str, object], word: str) -> None:
    found = read_index({INDEX: json.dumps(index)})
    assert len(found.notes) == 1 and word in found.notes[0]
    assert found.family == "" and len(found.entries) <= 1 and found.recipe == {}


def test_a_file_that_announces_thousands_of_names_costs_a_line(tmp_path: Path) -> None:
    """Each name had a sentence of its own, and the picture of 60,000 sentences took 2 GB."""
    path = tmp_path / "b.safetensors"
    index = {"entries": [{"name": f"n{number}"} for number in range(60_000)]}
    save_file(LORA, path, {INDEX: json.dumps(index)})
    found = load_bundle(path)
    assert found.notes == (
        "The file's description has 60000 concepts: the first 1000 are read.",
        "The embeddings n0, n1, n2 and 997 more are not in this file: look for files of those "
        "names.",
    )
    assert render(inspect_bundle(found), found).height < 1000 and peek(path).entries == ()


def test_a_file_that_holds_thousands_of_names_shows_some_and_counts_the_rest(
    tmp_path: Path,
) -> None:
    path = tmp_path / "b.safetensors"
    vectors = {f"bundle_emb.n{number}.clip_l": torch.ones(1, 3) for number in range(2000)}
    save_file(LORA | vectors, path)
    seen, found = peek(path), load_bundle(path)
    assert len(seen.entries) == 200 and seen.notes[0] == "1800 more names are not shown."
    assert len(found.embeddings) == 2000
    report = inspect_bundle(found)
    assert "and 1800 more" in dict(report.facts)["names"]
    assert render(report, found).height < 10_000


def test_notes_are_as_many_and_as_long_as_a_person_reads() -> None:
    many = as_notes([f"note {number}" for number in range(80)])
    assert len(many) == 51 and many[-1] == "30 more notes are left out." and as_notes(many) == many
    assert as_notes(["few words"]) == ("few words",)
    (note,) = as_notes(["a b " * 100_000])
    assert len(note) <= 2000


def test_a_junk_graph_is_left_out_and_noted() -> None:
    found = read_index({"workflow": "{{"})
    assert found.workflow == "" and "graph" in found.notes[0]


def test_a_lora_that_calls_itself_an_embedding_stays_a_lora(tmp_path: Path) -> None:
    text = json.dumps({"kind": "embedding", "entries": [{"name": "x"}]})
    save_file(LORA, tmp_path / "b.safetensors", {INDEX: text})
    found = load_bundle(tmp_path / "b.safetensors")
    assert found.lora.keys() == LORA.keys() and not found.embeddings


KOHYA = {
    "ss_network_module": "lycoris.kohya",
    "ss_network_dim": "16",
    "ss_network_alpha": "8",
    "ss_network_args": '{"conv_dim": "8"}',
    "ss_base_model_version": "sd_v2_v",
    "ss_learning_rate": "0.1",
    "modelspec.trigger_phrase": "ohwx man, style",
}


def foreign(tmp_path: Path, header: dict[str, str] = KOHYA) -> Bundle:
    """A LoRA of another program whose layers have two ranks."""
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_"
    tensors = {
        f"{stem}{name}.lora_{end}.weight": torch.ones(size)
        for name, rank in (("k", 16), ("v", 4))
        for end, size in (("up", (320, rank)), ("down", (rank, 1024)))
    }
    save_file(tensors, tmp_path / "x.safetensors", header)
    return load_bundle(tmp_path / "x.safetensors")


def saved_header(made: Bundle, path: Path) -> dict[str, str]:
    save_bundle(made, path, Container.A1111, None)
    return read_safetensors(path)[1]


def test_what_still_holds_of_another_program_s_header_is_kept(tmp_path: Path) -> None:
    made = foreign(tmp_path)
    header = saved_header(made, tmp_path / "y.safetensors")
    assert {key: header[key] for key in KOHYA} == KOHYA
    assert header["modelspec.architecture"] == "stable-diffusion-v2-768-v/lora"
    # A version of another family than the tensors show does not hold.
    other = foreign(tmp_path, KOHYA | {"ss_base_model_version": "sdxl_base_v1-0"})
    assert saved_header(other, tmp_path / "z.safetensors")["ss_base_model_version"] == "sd_v2"


def test_ranks_that_have_changed_are_dynamic(tmp_path: Path) -> None:
    made = foreign(tmp_path)
    resized = replace(made, header=resized_header(made.header))
    header = saved_header(resized, tmp_path / "y.safetensors")
    assert header["ss_network_dim"] == header["ss_network_alpha"] == "Dynamic"
    assert "ss_network_args" not in header and header["ss_learning_rate"] == "0.1"
    equal = {key: t[:4] if "down" in key else t[:, :4] for key, t in made.lora.items()}
    header = saved_header(replace(resized, lora=equal), tmp_path / "z.safetensors")
    assert header["ss_network_dim"] == "4" and header["ss_network_alpha"] == "Dynamic"


def test_a_phrase_stays_while_names_come_and_go(tmp_path: Path) -> None:
    phrase = "modelspec.trigger_phrase"
    vectors = {name: {"clip_h": torch.ones(1, 1024)} for name in ("cat", "big dog")}
    for container in (Container.A1111, Container.LOOSE):
        folder = tmp_path / container.value
        made = replace(foreign(tmp_path), embeddings=vectors)
        save_bundle(made, folder / "a.safetensors", container, None)
        shown = "cat, big dog" if container is Container.A1111 else "cat, big_dog"
        header = read_safetensors(folder / "a.safetensors")[1]
        assert header[phrase] == f"ohwx man, style, {shown}"
        again = load_bundle(folder / "a.safetensors")
        assert again.header[phrase] == "ohwx man, style"
        gone = again.without(["cat", "big dog"])
        save_bundle(gone, folder / "b.safetensors", Container.A1111, None)
        assert read_safetensors(folder / "b.safetensors")[1][phrase] == "ohwx man, style"


def test_our_own_names_are_no_phrase_of_anybody_else(tmp_path: Path) -> None:
    save_bundle(bundle(), tmp_path / "a.safetensors", Container.A1111, None)
    assert "modelspec.trigger_phrase" not in load_bundle(tmp_path / "a.safetensors").header
