"""Every container gives back what went in, bit for bit; a refusal leaves no file behind."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from factories import ENCODERS, bundle, lora, same
from pack.bundles.bundle import Bundle, Entry
from pack.bundles.edit import NameClash, merge_bundles
from pack.bundles.files.safetensors import read_safetensors
from pack.bundles.formats import writers
from pack.bundles.formats.header import FIELD
from pack.bundles.inspection import inspect_bundle
from pack.bundles.layers.generic import to_generic
from pack.bundles.load import load_bundle
from pack.bundles.save import Container, save_bundle, warnings_for

# cog-sdxl's folder has rules of its own; test_programs.py tests it.
CONTAINERS = [container for container in Container if container is not Container.COG]
MODULES = {
    "flux": "diffusion_model.double_blocks.0.img_attn.qkv",
    "zimage": "diffusion_model.layers.0.attention.qkv",
}
NAMES = ("surtr", "my cat", "Łódź", "猫", "<s0><s1>", "👩‍🎨", "a:b", "x(1)", "Cat_2", "naïve")


def make_bundle(family: str = "sd15", names: tuple[str, ...] = ("surtr",)) -> Bundle:
    """A LoRA of one layer in the model and one in the text, and four vectors a name."""
    unet = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k"
    layers = {MODULES.get(family, unet): (320, 768)}
    if family in ("sd15", "sdxl"):
        text = "text_encoders.clip_l.transformer.text_model.encoder.layers.3.self_attn.q_proj"
        layers[text] = (768, 768)
    made = bundle(*names, family=family, count=4, initial="a man", placeholder="TOK")
    return replace(
        made,
        lora=lora(layers, alpha=4.0),
        recipe={"steps": 20, "optimizer": {"name": "adamw", "rate": 0.001}, "pictures": "ä"},
        workflow=json.dumps({"nodes": [], "name": "größe"}),
    )


def same_embeddings(left: Bundle, right: Bundle) -> bool:
    return left.embeddings.keys() == right.embeddings.keys() and all(
        same(left.embeddings[name], right.embeddings[name]) for name in left.embeddings
    )


def test_every_container_is_the_name_of_a_format_that_writes() -> None:
    assert {container.value for container in Container} == writers().keys()


@pytest.mark.parametrize("container", Container)
def test_a_bundle_that_a_container_cannot_hold_leaves_no_file(
    tmp_path: Path, container: Container
) -> None:
    rows = {"llama": torch.ones(1, 4096)}
    bundle = Bundle(family="hidream", lora={}, embeddings={}, outputs={"cat": rows})
    path = tmp_path / "new" / "b.safetensors"
    if container.is_folder:
        with pytest.raises(ValueError, match="choose"):
            save_bundle(bundle, path, container, None)
        assert list(tmp_path.iterdir()) == []
    else:
        assert save_bundle(bundle, path, container, None) == [path]


@pytest.mark.parametrize("family", list(ENCODERS))
@pytest.mark.parametrize("names", [(), ("surtr",), NAMES], ids=["none", "one", "ten"])
def test_one_file_gives_everything_back(
    tmp_path: Path, family: str, names: tuple[str, ...]
) -> None:
    bundle, path = make_bundle(family, names), tmp_path / "b.safetensors"
    assert save_bundle(bundle, path, Container.A1111, torch.float32) == [path]
    found = load_bundle(path)
    assert same(to_generic(found.lora, family), dict(bundle.lora))
    assert same_embeddings(found, bundle)
    assert found.entries == bundle.entries and found.recipe == bundle.recipe
    assert found.workflow == bundle.workflow and found.family == family and found.notes == ()


@pytest.mark.parametrize("family", list(ENCODERS))
@pytest.mark.parametrize("names", [("surtr",), NAMES], ids=["one", "ten"])
def test_loose_files_give_everything_back(
    tmp_path: Path, family: str, names: tuple[str, ...]
) -> None:
    bundle, path = make_bundle(family, names), tmp_path / "b.safetensors"
    files = save_bundle(bundle, path, Container.LOOSE, torch.float32)
    assert sorted(files) == sorted(tmp_path.iterdir()) and files[0] == path
    for chosen in (path, tmp_path):
        whole = load_bundle(chosen)
        assert same(to_generic(whole.lora, family), dict(bundle.lora))
        assert same_embeddings(whole, bundle) and whole.family == family
        assert whole.entries == bundle.entries and "together with" in whole.notes[0]
    for file, entry in zip(files[1:], bundle.entries, strict=True):
        found = load_bundle(file)
        assert not found.lora and list(found.embeddings) == [entry.name] and found.notes == ()
        assert same(dict(found.embeddings[entry.name]), dict(bundle.embeddings[entry.name]))
        assert found.entries == (entry,) and found.recipe == bundle.recipe


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_bundle_saved_again_is_the_same(tmp_path: Path, container: Container) -> None:
    bundle = make_bundle("sdxl", NAMES)
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    save_bundle(bundle, first, Container.A1111, torch.bfloat16)
    loaded = load_bundle(first)
    if container.is_folder:
        second = tmp_path / "folder" / "2.safetensors"
    save_bundle(loaded, second, container, torch.bfloat16)
    assert same(dict(load_bundle(second).lora), dict(loaded.lora))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("container", CONTAINERS)
def test_the_lora_is_cast_and_the_embeddings_stay_fp32(
    tmp_path: Path, container: Container, dtype: torch.dtype
) -> None:
    bundle, path = make_bundle("sdxl", ("surtr",)), tmp_path / "b.safetensors"
    lora: dict[str, Tensor] = {}
    for file in save_bundle(bundle, path, container, dtype):
        found = load_bundle(file)
        lora |= to_generic(found.lora, "sdxl")
        assert "surtr" in found.embeddings or container is Container.DIFFUSERS
        assert all(
            rows.dtype == torch.float32
            for vectors in found.embeddings.values()
            for rows in vectors.values()
        )
    assert same(lora, {key: tensor.to(dtype) for key, tensor in bundle.lora.items()})


@pytest.mark.parametrize(
    ("family", "prefixes"),
    [
        ("sd15", ("lora_unet_down_blocks_1_attentions_0_", "lora_te_text_model_")),
        ("sdxl", ("lora_unet_input_blocks_4_1_", "lora_te1_text_model_")),
        ("flux", ("diffusion_model.double_blocks.0.",)),
    ],
)
def test_the_file_has_the_names_that_other_programs_read(
    tmp_path: Path, family: str, prefixes: tuple[str, ...]
) -> None:
    path = tmp_path / "b.safetensors"
    save_bundle(make_bundle(family, ("surtr",)), path, Container.A1111, torch.float16)
    tensors, _ = read_safetensors(path)
    expected = {f"bundle_emb.surtr.{encoder}" for encoder in ENCODERS[family]}
    assert {key for key in tensors if key.startswith("bundle_emb.")} == expected
    rest = [key for key in tensors if not key.startswith("bundle_emb.")]
    assert all(key.startswith(prefixes) for key in rest) and len(rest) == 3 * len(prefixes)


def test_loose_embeddings_have_the_keys_that_other_programs_read(tmp_path: Path) -> None:
    for family, keys in {"sd15": {"emb_params"}, "sdxl": {"clip_l", "clip_g"}}.items():
        (tmp_path / family).mkdir()
        path = tmp_path / family / "b.safetensors"
        files = save_bundle(make_bundle(family), path, Container.LOOSE, torch.float16)
        assert read_safetensors(files[1])[0].keys() == keys


@pytest.mark.parametrize("container", CONTAINERS)
def test_embeddings_alone_can_be_saved(tmp_path: Path, container: Container) -> None:
    whole = make_bundle("sd15", ("surtr", "cat"))
    bundle = Bundle(family="sd15", lora={}, embeddings=whole.embeddings)
    files = save_bundle(bundle, tmp_path / "b.safetensors", container, torch.float16)
    assert len(files) == (2 if container is Container.LOOSE else 1)
    found = {name: rows for file in files for name, rows in load_bundle(file).embeddings.items()}
    assert same_embeddings(Bundle(family="", lora={}, embeddings=found), bundle)


def test_the_lora_of_loose_files_says_where_the_embeddings_are(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    save_bundle(make_bundle("sd15", ("surtr",)), path, Container.LOOSE, torch.float16)
    (tmp_path / "surtr.safetensors").unlink()
    assert load_bundle(path).notes == (
        "The embedding 'surtr' is not in this file: look for a file of that name.",
    )


@pytest.mark.parametrize("container", CONTAINERS)
def test_nothing_is_overwritten(tmp_path: Path, container: Container) -> None:
    (tmp_path / "b.safetensors").write_text("theirs")
    with pytest.raises(FileExistsError, match=r"b\.safetensors exists already"):
        save_bundle(make_bundle(), tmp_path / "b.safetensors", container, torch.float16)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["theirs"]


def test_one_taken_name_keeps_all_loose_files_away(tmp_path: Path) -> None:
    (tmp_path / "cat.safetensors").write_text("theirs")
    bundle = make_bundle("sd15", ("surtr", "cat", "dog"))
    with pytest.raises(FileExistsError, match=r"cat\.safetensors exists already"):
        save_bundle(bundle, tmp_path / "b.safetensors", Container.LOOSE, torch.float16)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("function", ["fsync", "link"])
def test_a_save_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: Container, function: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="No space left"):
        save_bundle(make_bundle(), tmp_path / "b.safetensors", container, torch.float16)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", ["v1.0", "", "123", "bundle_emb"])
def test_a_name_that_cannot_be_read_again_is_not_saved(
    tmp_path: Path, container: Container, name: str
) -> None:
    with pytest.raises(ValueError, match="choose another name"):
        save_bundle(
            make_bundle("sd15", (name,)), tmp_path / "b.safetensors", container, torch.float16
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_vectors_that_are_not_numbers_are_not_saved(tmp_path: Path, value: float) -> None:
    rows = torch.ones(2, 768)
    rows[1, 5] = value
    bundle = Bundle(family="sd15", lora={}, embeddings={"surtr": {"clip_l": rows}})
    with pytest.raises(ValueError, match="'surtr' holds NaN or infinite values"):
        save_bundle(bundle, tmp_path / "b.safetensors", Container.A1111, torch.float32)
    assert list(tmp_path.iterdir()) == []


def test_a_lora_that_fp16_cannot_hold_is_not_saved_as_infinity(tmp_path: Path) -> None:
    lora = {"diffusion_model.out.2.lora_up.weight": torch.tensor([[1e6]])}
    bundle = Bundle(family="sd15", lora=lora, embeddings={})
    with pytest.raises(ValueError, match="too large for torch.float16: save the LoRA in bfloat16"):
        save_bundle(bundle, tmp_path / "b.safetensors", Container.A1111, torch.float16)
    save_bundle(bundle, tmp_path / "b.safetensors", Container.A1111, torch.bfloat16)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("Cat", "cat"), "'cat' and 'Cat' would both be saved as"),
        (("a?b", "a*b"), "would both be saved as a_b.safetensors"),
        (("B",), "'B' and the LoRA would both be saved as"),
        (("CON",), "No file can be called 'CON'"),
        (("???",), "leaves nothing for a file name"),
        (("n" * 300,), "too long for a file"),
    ],
)
def test_names_that_cannot_be_files_are_said_so(
    tmp_path: Path, names: tuple[str, ...], sentence: str
) -> None:
    bundle, path = make_bundle("sd15", names), tmp_path / "b.safetensors"
    with pytest.raises(ValueError, match=sentence):
        save_bundle(bundle, path, Container.LOOSE, torch.float16)
    assert list(tmp_path.iterdir()) == []
    save_bundle(bundle, path, Container.A1111, torch.float16)


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    bundle = make_bundle("sd15", ("/etc/x", "a\\b", "c:d"))
    files = save_bundle(bundle, folder / "b.safetensors", Container.LOOSE, torch.float16)
    assert {file.parent for file in files} == {folder} and list(tmp_path.iterdir()) == [folder]


def test_the_caller_is_told_which_names_files_change() -> None:
    bundle = make_bundle("sd15", ("surtr", "my cat", "CON"))
    spaced, reserved = warnings_for(bundle, Container.LOOSE)
    assert "'my cat' is saved as my_cat.safetensors: type embedding:my_cat" in spaced
    assert "No file can be called 'CON'" in reserved


def test_the_caller_is_told_which_programs_refuse_the_file() -> None:
    few, many = make_bundle("sdxl", NAMES[:6]), make_bundle("sdxl", NAMES[:7])
    assert ["diffusers" in text for text in warnings_for(few, Container.A1111)] == [True]
    forge, diffusers = warnings_for(many, Container.A1111)
    assert "Forge refuses a LoRA with more than 12" in forge and "has 14" in forge
    assert "diffusers refuses" in diffusers
    assert warnings_for(make_bundle("sdxl", ()), Container.A1111) == []


def test_a_wrong_ending_type_or_empty_bundle_is_refused(tmp_path: Path) -> None:
    bundle, path = make_bundle(), tmp_path / "b.safetensors"
    with pytest.raises(ValueError, match="does not end in .safetensors"):
        save_bundle(bundle, tmp_path / "b.pt", Container.A1111, torch.float16)
    with pytest.raises(ValueError, match="cannot be saved as torch.int8"):
        save_bundle(bundle, path, Container.A1111, torch.int8)
    with pytest.raises(ValueError, match="nothing to save"):
        empty = Bundle(family="sd15", lora={}, embeddings={})
        save_bundle(empty, path, Container.A1111, torch.float16)


def test_names_come_back_in_the_order_in_which_they_were_saved(tmp_path):
    names = [f"name{number}" for number in (10, 2, 1)]
    bundle = Bundle(
        family="sd15",
        lora={},
        embeddings={name: {"clip_l": torch.ones(1, 768)} for name in names},
        entries=tuple(Entry(name=name) for name in names),
    )
    (path,) = save_bundle(bundle, tmp_path / "b.safetensors", Container.A1111, torch.float32)
    assert list(load_bundle(path).embeddings) == names


@pytest.mark.parametrize("family", list(ENCODERS))
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_back_every_bit(
    tmp_path: Path, family: str, container: Container
) -> None:
    bundle, path = make_bundle(family, NAMES), tmp_path / "b.safetensors"
    save_bundle(bundle, path, container, torch.float32)
    found = load_bundle(path)
    assert same(to_generic(found.lora, family), dict(bundle.lora))
    assert same_embeddings(found, bundle) and found.family == family
    assert found.recipe == bundle.recipe and found.workflow == bundle.workflow
    assert [entry.initial for entry in found.entries] == ["a man"] * len(NAMES)


@pytest.mark.parametrize("container", [Container.A1111, Container.HEADER, Container.ONETRAINER])
def test_output_embeddings_come_back(tmp_path: Path, container: Container) -> None:
    bundle = make_bundle("sdxl", ("surtr",))
    outputs = {"late": {key: rows + 1 for key, rows in bundle.embeddings["surtr"].items()}}
    bundle = replace(bundle, outputs=outputs)
    save_bundle(bundle, tmp_path / "b.safetensors", container, torch.float32)
    found = load_bundle(tmp_path / "b.safetensors")
    assert same(dict(found.outputs["late"]), outputs["late"]) and same_embeddings(found, bundle)
    assert found.names == ["surtr", "late"]


def test_none_keeps_the_type_of_each_tensor(tmp_path: Path) -> None:
    bundle = make_bundle("sd15")
    mixed = dict(bundle.lora)
    first = next(iter(mixed))
    mixed[first] = mixed[first].to(torch.bfloat16)
    save_bundle(replace(bundle, lora=mixed), tmp_path / "b.safetensors", Container.A1111, None)
    found = to_generic(load_bundle(tmp_path / "b.safetensors").lora, "sd15")
    assert same(found, mixed)


def test_a_lora_with_its_embeddings_in_the_header_is_a_plain_lora_to_others(tmp_path: Path) -> None:
    bundle = make_bundle("sdxl", NAMES)
    save_bundle(bundle, tmp_path / "b.safetensors", Container.HEADER, torch.float16)
    tensors, metadata = read_safetensors(tmp_path / "b.safetensors")
    assert all(key.startswith("lora_") for key in tensors) and len(tensors) == len(bundle.lora)
    plain = replace(bundle, embeddings={}, entries=())
    save_bundle(plain, tmp_path / "plain.safetensors", Container.A1111, torch.float16)
    _, other = read_safetensors(tmp_path / "plain.safetensors")
    assert metadata["sshs_model_hash"] == other["sshs_model_hash"]


def test_half_precision_is_used_in_the_header_only_where_it_is_exact(tmp_path: Path) -> None:
    rows = torch.tensor([[0.5, 1 / 3] * 384])
    for number, value in enumerate([rows, rows.half().float()]):
        bundle = Bundle(family="sd15", lora={}, embeddings={"x": {"clip_l": value}})
        path = tmp_path / f"{number}.safetensors"
        save_bundle(bundle, path, Container.HEADER, torch.float32)
        assert torch.equal(load_bundle(path).embeddings["x"]["clip_l"], value)
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert sizes[1] < 0.75 * sizes[0]


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "[]",
        "{}x",
        '{"x": 1}',
        '{"x": {"clip_l": {"dtype": "F32", "shape": [1, 2], "data": "00000"}}}',
        '{"x": {"clip_l": {"dtype": "F32", "shape": [-1, -1], "data": "00000"}}}',
        '{"x": {"clip_l": {"dtype": "F32", "shape": [99999999999, 1], "data": "00000"}}}',
        '{"x": {"clip_l": {"dtype": "F9", "shape": [1, 1], "data": "00000"}}}',
        '{"x": {"clip_l": {"dtype": "F32", "shape": [1, 1], "data": "\\u00e9"}}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_header_is_said_so(tmp_path: Path, text: str) -> None:
    save_file({"lora_x.lora_up.weight": torch.ones(2)}, tmp_path / "b.safetensors", {FIELD: text})
    with pytest.raises(ValueError, match="b.safetensors cannot be loaded: the embeddings in its"):
        load_bundle(tmp_path / "b.safetensors")


def test_the_header_wins_over_what_the_tensors_look_like(tmp_path: Path) -> None:
    """Another program may pack names into such a file: both kinds are read then."""
    stem = "text_encoder.text_model.encoder.layers.3.self_attn.q_proj"
    lora = {
        f"{stem}.lora_A.weight": torch.ones(1, 768),
        f"{stem}.lora_B.weight": torch.ones(768, 1),
    }
    bundle = replace(make_bundle("sd15"), family="", lora=lora)
    (path,) = save_bundle(bundle, tmp_path / "b.safetensors", Container.HEADER, None)
    tensors, metadata = read_safetensors(path)
    assert same_embeddings(load_bundle(path), bundle)
    packed = tensors | {"bundle_emb.other.clip_l": torch.ones(1, 768)}
    save_file(packed, tmp_path / "both.safetensors", metadata)
    both = load_bundle(tmp_path / "both.safetensors")
    assert set(both.embeddings) == {"surtr", "other"} and both.lora.keys() == lora.keys()


def test_the_diffusers_pair_says_whose_the_rows_are(tmp_path: Path) -> None:
    bundle = make_bundle("sdxl", ("cat", "dog"))
    lora, embeddings = save_bundle(
        bundle, tmp_path / "b.safetensors", Container.DIFFUSERS, torch.float16
    )
    tensors, _ = read_safetensors(embeddings)
    assert embeddings.name == "b_emb.safetensors" and tensors["clip_g"].shape == (8, 1280)
    assert torch.equal(tensors["clip_l"][4:], bundle.embeddings["dog"]["clip_l"])
    (note,) = warnings_for(bundle, Container.DIFFUSERS)
    assert "cat = <s0><s1><s2><s3>; dog = <s4><s5><s6><s7>" in note


def test_names_with_other_numbers_of_vectors_fit_one_tensor_too(tmp_path: Path) -> None:
    rows = {"a; x = 2": torch.randn(1, 768), "b": torch.randn(3, 768)}
    bundle = Bundle(family="sd15", lora={}, embeddings={n: {"clip_l": r} for n, r in rows.items()})
    (path,) = save_bundle(bundle, tmp_path / "b.safetensors", Container.DIFFUSERS, None)
    assert same_embeddings(load_bundle(path), bundle)


def test_one_tensor_holds_names_whose_encoders_lie_in_another_order(tmp_path: Path) -> None:
    rows = {"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280)}
    names = {"cat": rows, "dog": {key: rows[key] + 1 for key in reversed(rows)}}
    bundle = Bundle(family="sdxl", lora={}, embeddings=names)
    (path,) = save_bundle(bundle, tmp_path / "b.safetensors", Container.DIFFUSERS, None)
    assert same_embeddings(load_bundle(path), bundle)


def test_an_alpha_of_two_numbers_is_one_sentence_wherever_it_is_met(tmp_path: Path) -> None:
    lora = dict(make_bundle("sd15").lora)
    key = next(key for key in lora if key.endswith(".alpha"))
    damaged = replace(make_bundle("sd15"), lora=lora | {key: torch.ones(2)})
    sentence = f"{key} holds 2 numbers, but the alpha of a layer is one"
    for container in (Container.A1111, Container.HEADER, Container.DIFFUSERS):
        with pytest.raises(ValueError, match=sentence):
            save_bundle(damaged, tmp_path / "new" / "b.safetensors", container, None)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match=sentence):
        merge_bundles([damaged, damaged], [1, 1], NameClash.ERROR)
    save_file(dict(damaged.lora), tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=f"b.safetensors cannot be loaded: {sentence}"):
        load_bundle(tmp_path / "b.safetensors")
    # A look at it shows the rest.
    seen = inspect_bundle(load_bundle(tmp_path / "b.safetensors", finite=False))
    assert "layers in two factors" in dict(seen.facts)["LoRA"]


def test_trainer_keys_name_t5_as_trainers_do(tmp_path: Path) -> None:
    bundle = make_bundle("flux")
    path = tmp_path / "b.safetensors"
    files = save_bundle(bundle, path, Container.LOOSE, None, trainer_keys=True)
    assert read_safetensors(files[1])[0].keys() == {"clip_l", "t5"}
    assert same_embeddings(load_bundle(path), bundle)


def test_what_others_wrote_into_the_header_is_kept(tmp_path: Path) -> None:
    bundle = make_bundle("sd15")
    save_bundle(bundle, tmp_path / "1.safetensors", Container.A1111, torch.float16)
    tensors, metadata = read_safetensors(tmp_path / "1.safetensors")
    foreign = metadata | {"ss_tag_frequency": "{}", "modelspec.author": "me", "secret": "x"}
    save_file(tensors, tmp_path / "2.safetensors", foreign)
    again = load_bundle(tmp_path / "2.safetensors")
    save_bundle(again, tmp_path / "3.safetensors", Container.A1111, None)
    _, found = read_safetensors(tmp_path / "3.safetensors")
    assert found["ss_tag_frequency"] == "{}" and found["modelspec.author"] == "me"
    assert "secret" not in found
