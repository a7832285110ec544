"""Each program's files, made as that program writes them: what is read are the same tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from factories import lora, same
from pack.bundles.bundle import Bundle
from pack.bundles.edit import NameClash, merge_bundles
from pack.bundles.files.safetensors import read_safetensors
from pack.bundles.inspection import as_text, inspect_bundle
from pack.bundles.layers.generic import to_generic
from pack.bundles.load import files_of, load_bundle
from pack.bundles.save import Container, save_bundle
from pack.bundles.trim import Trimming, trim_lora

WIDTHS = {"clip_l": 768, "clip_g": 1280, "t5": 4096, "llama": 4096, "gemma": 2304}
NOISE = torch.Generator().manual_seed(3)
KOHYA = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
GENERIC = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k"


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=NOISE)


def kohya_lora(context: int = 2048, rank: int = 4) -> dict[str, Tensor]:
    return lora({KOHYA: (640, context)}, rank=rank, alpha=2.0)


def holds(bundle: Bundle, name: str, wanted: dict[str, Tensor]) -> bool:
    return same(bundle.embeddings[name], wanted)


# OneTrainer: family -> its keys and the host's
ONETRAINER = {
    "SD": {"clip_l": "clip_l"},
    "SDXL": {"clip_l": "clip_l", "clip_g": "clip_g"},
    "SD3": {"clip_l": "clip_l", "clip_g": "clip_g", "t5": "t5xxl"},
    "Flux": {"clip_l": "clip_l", "t5": "t5xxl"},
    "Chroma and PixArt": {"t5": "t5xxl"},
    "HiDream": {"clip_l": "clip_l", "clip_g": "clip_g", "t5": "t5xxl", "llama": "llama"},
    "HunyuanVideo": {"llama": "llama", "clip_l": "clip_l"},
    "Sana": {"gemma": "gemma2_2b"},
    "Cascade": {"clip_g": "clip_g"},
}


@pytest.mark.parametrize("family", ONETRAINER)
@pytest.mark.parametrize("placeholder", ["<embedding>", "ema yasuhara", "v1.0"])
def test_onetrainer_bundles(tmp_path: Path, family: str, placeholder: str) -> None:
    """Its default: beside an output embedding stand zeros under the plain key."""
    keys = ONETRAINER[family]
    vectors = {key: draw(2, WIDTHS[key]) for key in keys}
    tensors = kohya_lora()
    for key, rows in vectors.items():
        tensors[f"bundle_emb.{placeholder}.{key}"] = rows
        tensors[f"bundle_emb.late.{key}"] = torch.zeros_like(rows)
        tensors[f"bundle_emb.late.{key}_out"] = rows + 1
    save_file(tensors, tmp_path / "lora.safetensors", {"ot_branch": "master"})
    found = load_bundle(tmp_path / "lora.safetensors")
    assert holds(found, placeholder, {keys[key]: rows for key, rows in vectors.items()})
    assert list(found.embeddings) == [placeholder] and len(found.lora) == 3
    outputs = {keys[key]: rows + 1 for key, rows in vectors.items()}
    assert same(found.outputs["late"], outputs)
    assert "'late' is an output embedding" in " ".join(found.notes)


def test_onetrainer_files_beside_the_lora(tmp_path: Path) -> None:
    """SD1's key is misspelled, and the files carry no header."""
    save_file(kohya_lora(768), tmp_path / "my lora.safetensors")
    (tmp_path / "my lora_embeddings").mkdir()
    rows = {name: draw(2, 768) for name in ("cat", "dog")}
    for name, tensor in rows.items():
        path = tmp_path / "my lora_embeddings" / f"{name}.safetensors"
        save_file({"emp_params": tensor}, path)
        assert holds(load_bundle(path), name, {"clip_l": tensor})
    found = load_bundle(tmp_path / "my lora.safetensors")
    assert list(found.embeddings) == ["cat", "dog"] and len(found.lora) == 3
    assert all(holds(found, name, {"clip_l": tensor}) for name, tensor in rows.items())
    assert "together with cat.safetensors, dog.safetensors" in found.notes[0]
    assert len(files_of(tmp_path / "my lora.safetensors")) == 3


def test_onetrainer_flux_files_of_2024_call_clip_l_clip_g(tmp_path: Path) -> None:
    rows = {"clip_g": draw(2, 768), "t5": draw(2, 4096)}
    save_file(rows, tmp_path / "x.safetensors")
    found = load_bundle(tmp_path / "x.safetensors")
    assert holds(found, "x", {"clip_l": rows["clip_g"], "t5xxl": rows["t5"]})


def test_onetrainer_hidream_files_call_clip_g_t5(tmp_path: Path) -> None:
    rows = {"clip_g": torch.zeros(1, 1280), "t5_out": draw(1, 1280)}
    save_file(rows, tmp_path / "x.safetensors")
    found = load_bundle(tmp_path / "x.safetensors")
    assert same(found.outputs["x"], {"clip_g": rows["t5_out"]})


def test_a_pack_of_lycoris_tools(tmp_path: Path) -> None:
    """A1111's `.pt` packed by its keys, nested ones joined by dots; and kohya's embedding."""
    old, new = draw(4, 768), draw(2, 768)
    packed = kohya_lora(768) | {
        "bundle_emb.old.string_to_param.*": old,
        "bundle_emb.new.emb_params": new,
    }
    save_file(packed, tmp_path / "a-bundle.safetensors")
    torch.save(packed | {"bundle_emb.old.string_to_token.*": 265}, tmp_path / "a-bundle.pt")
    for file in ("a-bundle.safetensors", "a-bundle.pt"):
        found = load_bundle(tmp_path / file)
        assert holds(found, "old", {"clip_l": old}) and holds(found, "new", {"clip_l": new})
        assert len(found.lora) == 3


def lycoris_network(algo: str) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    """LyCORIS' own network on a module that is called as diffusers call the UNet's."""
    lycoris = pytest.importorskip("lycoris")
    model = torch.nn.ModuleDict({"down_blocks_1_attentions_0_to_k": torch.nn.Linear(768, 320)})
    lycoris.LycorisNetwork.apply_preset({"target_module": ["Linear"]})
    network = lycoris.create_lycoris(model, 1.0, linear_dim=4, linear_alpha=2.0, algo=algo)
    network.apply_to()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network, network.state_dict()


@pytest.mark.parametrize("algo", ["lora", "loha", "lokr"])
def test_lycoris_own_file_becomes_a_bundle_and_stays_its_own(tmp_path: Path, algo: str) -> None:
    network, state = lycoris_network(algo)
    path, vectors = tmp_path / "ly.safetensors", {"clip_l": draw(2, 768)}
    network.save_weights(str(path), torch.float32, {"ss_network_module": "lycoris.kohya"})
    found = load_bundle(path)
    assert same(found.lora, {key: value.float() for key, value in state.items()})
    bundle = Bundle(family="sd15", lora=found.lora, embeddings={"cat": vectors})
    save_bundle(bundle, tmp_path / "b.safetensors", Container.HEADER, None)
    # The tensors are the same, so LyCORIS loads the file as one of its own.
    again, _ = read_safetensors(tmp_path / "b.safetensors")
    assert same(again, dict(found.lora))
    fresh, before = lycoris_network(algo)
    assert not same(dict(before), dict(state))
    fresh.load_state_dict(again, strict=True)
    assert same(dict(fresh.state_dict()), dict(state))


@pytest.mark.parametrize("width", [768, 1024])
def test_a1111_embeddings(tmp_path: Path, width: int) -> None:
    rows = draw(3, width)
    data = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": rows},
        "name": "surtr",
        "step": 500,
        "sd_checkpoint": "abc",
        "sd_checkpoint_name": "base",
    }
    encoder = {768: "clip_l", 1024: "clip_h"}[width]
    for stem, name in {"surtr": "surtr", "surtr-500": "surtr", "other": "other"}.items():
        torch.save(data, tmp_path / f"{stem}.pt")
        assert holds(load_bundle(tmp_path / f"{stem}.pt"), name, {encoder: rows})
    old = tmp_path / "old.pt"
    torch.save(data, old, _use_new_zipfile_serialization=False)
    assert holds(load_bundle(old), "old", {encoder: rows})


def test_a1111_embeddings_of_a_trained_parameter(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(draw(2, 768))
    torch.save({"string_to_param": {"*": parameter}, "name": "x"}, tmp_path / "x.pt")
    assert holds(load_bundle(tmp_path / "x.pt"), "x", {"clip_l": parameter.detach()})


@pytest.mark.parametrize("width", [768, 1024, 2048])
def test_embeddings_with_their_token_and_step_as_tensors(tmp_path: Path, width: int) -> None:
    """As the first trainers wrote them, and as a tool packs such a file."""
    rows = draw(3, width)
    data = {
        "string_to_token": {"*": torch.tensor(265)},
        "string_to_param": {"*": rows},
        "step": torch.tensor(3),
    }
    torch.save(data, tmp_path / "old.pt")
    wanted = {768: {"clip_l": rows}, 1024: {"clip_h": rows}}.get(
        width, {"clip_l": rows[:, :768], "clip_g": rows[:, 768:]}
    )
    assert holds(load_bundle(tmp_path / "old.pt"), "old", wanted)
    if width != 2048:
        packed = {f"bundle_emb.old.{key}.*": data[key]["*"] for key in list(data)[:2]}
        save_file(packed | {"bundle_emb.old.step": data["step"]}, tmp_path / "x.safetensors")
        found = load_bundle(tmp_path / "x.safetensors")
        assert found.names == ["old"] and holds(found, "old", wanted)


@pytest.mark.parametrize("key", ["*", "<cat>", "<v1.0>", "cat"])
@pytest.mark.parametrize(
    ("width", "encoder"), [(768, "clip_l"), (1280, "clip_g"), (1024, "clip_h")]
)
def test_a_packed_embedding_of_diffusers_is_for_the_encoder_of_its_width(
    tmp_path: Path, key: str, width: int, encoder: str
) -> None:
    rows = draw(2, width)
    save_file({f"bundle_emb.cat.{key}": rows}, tmp_path / "x.safetensors")
    found = load_bundle(tmp_path / "x.safetensors")
    assert found.names == ["cat"] and holds(found, "cat", {encoder: rows})


def test_a_packed_embedding_that_fits_no_encoder_is_refused(tmp_path: Path) -> None:
    save_file({"bundle_emb.cat.<cat>": draw(2, 33)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="vectors of width 33 fit no known text encoder"):
        load_bundle(tmp_path / "x.safetensors")


@pytest.mark.parametrize("file", ["kitty.pt", "kitty.bin", "kitty.safetensors"])
def test_a_lone_star_is_named_after_its_file(tmp_path: Path, file: str) -> None:
    rows = draw(2, 768)
    write = save_file if file.endswith("safetensors") else torch.save
    write({"*": rows}, tmp_path / file)
    found = load_bundle(tmp_path / file)
    assert found.names == ["kitty"] and holds(found, "kitty", {"clip_l": rows})


@pytest.mark.parametrize("xl", [False, True])
def test_kohya_textual_inversion(tmp_path: Path, xl: bool) -> None:
    vectors = {"clip_l": draw(4, 768), "clip_g": draw(4, 1280)} if xl else {"clip_l": draw(4, 768)}
    tensors = vectors if xl else {"emb_params": vectors["clip_l"]}
    spec = {"modelspec.sai_model_spec": "1.0.1", "modelspec.title": "cat"}
    spec["modelspec.architecture"] = "stable-diffusion-xl-v1-base/textual-inversion"
    save_file(tensors, tmp_path / "cat.safetensors", spec)
    assert holds(load_bundle(tmp_path / "cat.safetensors"), "cat", vectors)


def test_kohya_extended_inversion_is_refused(tmp_path: Path) -> None:
    blocks = ["IN01", "IN02", "IN04", "MID", "OUT03", "OUT11"]
    save_file({name: draw(2, 768) for name in blocks}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"extended textual inversion \(XTI\).*train an ordinary"):
        load_bundle(tmp_path / "x.safetensors")


@pytest.mark.parametrize("shape", [(768,), (3, 768)])
def test_diffusers_textual_inversion(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rows = draw(*shape)
    wanted = {"clip_l": rows.reshape(-1, 768)}
    save_file({"<cat-toy>": rows}, tmp_path / "learned_embeds.safetensors")
    torch.save({"<cat-toy>": rows}, tmp_path / "learned_embeds.bin")
    save_file({"cat-toy": rows}, tmp_path / "word.safetensors")
    for file in ("learned_embeds.safetensors", "learned_embeds.bin"):
        assert holds(load_bundle(tmp_path / file), "<cat-toy>", wanted)
    assert holds(load_bundle(tmp_path / "word.safetensors"), "cat-toy", wanted)


ADVANCED = {
    "sd15": {"clip_l": "clip_l"},
    "sdxl": {"clip_l": "clip_l", "clip_g": "clip_g"},
    "flux": {"clip_l": "clip_l", "t5": "t5xxl"},
}


@pytest.mark.parametrize("family", ADVANCED)
def test_diffusers_advanced_scripts(tmp_path: Path, family: str) -> None:
    """One tensor for all concepts: split by the map that the user gives, or said so."""
    keys = ADVANCED[family]
    rows = {key: draw(4, WIDTHS[key]) for key in keys}
    save_file(rows, tmp_path / "run_emb.safetensors")
    save_file(kohya_lora(), tmp_path / "run.safetensors")
    whole = load_bundle(tmp_path / "run.safetensors")
    assert len(whole.lora) == 3
    assert holds(whole, "run_emb", {keys[key]: tensor for key, tensor in rows.items()})
    assert "holds 4 vectors in one tensor" in " ".join(whole.notes)
    for chosen in ("run.safetensors", "run_emb.safetensors", "."):
        found = load_bundle(tmp_path / chosen, token_map="TOK = <s0><s1>\nTOK2 = <s2><s3>")
        for name, part in {"TOK": slice(0, 2), "TOK2": slice(2, 4)}.items():
            assert holds(found, name, {keys[key]: t[part] for key, t in rows.items()})
        assert [entry.placeholder for entry in found.entries] == ["<s0><s1>", "<s2><s3>"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("TOK", 'The "TOK"|"TOK" in the token map is not understood'),
        ("TOK = x", "write TOK = <s0><s1>, or TOK = 2"),
        ("TOK = 5", "'TOK' the rows 0, 1, 2, 3, 4 and the embedding has the rows 0 to 3"),
        ("TOK = <s4>", "'TOK' the rows 4 and the embedding has the rows 0 to 3"),
        ("TOK = 0", "'TOK' the rows none"),
        ("a = 1\na = 2", "not understood"),
    ],
)
def test_a_token_map_that_does_not_fit_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    save_file({"clip_l": draw(4, 768)}, tmp_path / "x_emb.safetensors")
    with pytest.raises(ValueError, match=sentence):
        load_bundle(tmp_path / "x_emb.safetensors", token_map=text)


def test_rows_that_a_token_map_leaves_out_are_said(tmp_path: Path) -> None:
    rows = draw(4, 768)
    save_file({"clip_l": rows}, tmp_path / "x_emb.safetensors")
    found = load_bundle(tmp_path / "x_emb.safetensors", token_map="TOK = 1; TOK2 = 2")
    assert holds(found, "TOK2", {"clip_l": rows[1:3]})
    assert found.notes == ("The token map leaves out the rows 3.",)


def test_hcp_diffusion(tmp_path: Path) -> None:
    """SDXL's two encoders lie side by side in one tensor."""
    both = draw(4, 2048)
    torch.save({"string_to_param": {"*": both}, "name": "pt-cat"}, tmp_path / "pt-cat-1000.pt")
    found = load_bundle(tmp_path / "pt-cat-1000.pt")
    assert holds(found, "pt-cat", {"clip_l": both[:, :768], "clip_g": both[:, 768:]})
    assert found.family == "sdxl"


def test_ai_toolkit(tmp_path: Path) -> None:
    rows = draw(2, 768)
    fields = {"name": '"cat"', "step": "100", "string_to_param": '{"*": "emb_params"}'}
    save_file({"emb_params": rows}, tmp_path / "run_000100.safetensors", {"format": "pt", **fields})
    found = load_bundle(tmp_path / "run_000100.safetensors")
    assert holds(found, "run_000100", {"clip_l": rows})
    assert found.entries[0].placeholder == "cat"


def processor_lora() -> dict[str, Tensor]:
    """As cog-sdxl wrote attention processors: no alpha, no prefix."""
    module = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor"
    return {
        f"{module}.to_k_lora.up.weight": draw(640, 4),
        f"{module}.to_k_lora.down.weight": draw(4, 2048),
        f"{module}.to_out_lora.up.weight": draw(640, 4),
        f"{module}.to_out_lora.down.weight": draw(4, 640),
    }


def write_cog(folder: Path, tokens: dict[str, str], count: int) -> dict[str, Tensor]:
    rows = {"text_encoders_0": draw(count, 768), "text_encoders_1": draw(count, 1280)}
    save_file(rows, folder / "embeddings.pti")
    (folder / "special_params.json").write_text(json.dumps(tokens))
    return rows


@pytest.mark.parametrize("chosen", ["", "lora.safetensors"])
def test_cog_sdxl(tmp_path: Path, chosen: str) -> None:
    lora = processor_lora()
    save_file(lora, tmp_path / "lora.safetensors")
    rows = write_cog(tmp_path, {"TOK": "<s0><s1>", "OTHER": "<s2>"}, 3)
    found = load_bundle(tmp_path / chosen)
    first, second = rows["text_encoders_0"], rows["text_encoders_1"]
    assert holds(found, "TOK", {"clip_l": first[:2], "clip_g": second[:2]})
    assert holds(found, "OTHER", {"clip_l": first[2:], "clip_g": second[2:]})
    stem = GENERIC.removesuffix("to_k")
    wanted = {
        stem + key.split(".processor.")[1].replace("_lora.", ".lora_").replace("out.", "out.0."): t
        for key, t in lora.items()
    }
    assert same(found.lora, wanted) and found.family == "sdxl"
    assert "special_params.json" in found.notes[0]


def test_cog_sdxl_is_written_and_read_again(tmp_path: Path) -> None:
    made = {
        f"{GENERIC}.lora_up.weight": draw(640, 4),
        f"{GENERIC}.lora_down.weight": draw(4, 2048),
        f"{GENERIC}.alpha": torch.tensor(4.0),
    }
    names = {n: {"clip_l": draw(2, 768), "clip_g": draw(2, 1280)} for n in ("cat", "dog")}
    bundle = Bundle(family="sdxl", lora=made, embeddings=names)
    save_bundle(bundle, tmp_path / "in" / "x.safetensors", Container.COG, torch.float32)
    files = {path.name for path in (tmp_path / "in").iterdir()}
    assert files == {"lora.safetensors", "embeddings.pti", "special_params.json"}
    found = load_bundle(tmp_path / "in")
    assert all(holds(found, name, vectors) for name, vectors in names.items())
    assert same(found.lora, {k: v for k, v in made.items() if not k.endswith("alpha")})
    with pytest.raises(FileExistsError, match="never overwritten"):
        save_bundle(bundle, tmp_path / "in" / "x.safetensors", Container.COG, torch.float32)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({f"{GENERIC}.alpha": torch.tensor(1.0)}, "cog-sdxl has no alpha"),
        ({"diffusion_model.out.2.lora_up.weight": torch.ones(1, 1)}, "attention layers only"),
    ],
)
def test_what_cog_cannot_hold_is_refused(tmp_path: Path, change: dict, sentence: str) -> None:
    lora = {f"{GENERIC}.lora_up.weight": draw(8, 4), f"{GENERIC}.lora_down.weight": draw(4, 2048)}
    names = {"cat": {"clip_l": draw(1, 768), "clip_g": draw(1, 1280)}}
    bundle = Bundle(family="sdxl", lora=lora | change, embeddings=names)
    with pytest.raises(ValueError, match=sentence):
        save_bundle(bundle, tmp_path / "x.safetensors", Container.COG, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("chosen", ["", "portrait_sdxl.safetensors"])
def test_eden(tmp_path: Path, chosen: str) -> None:
    rows = {"clip_l": draw(2, 768), "clip_g": draw(2, 1280)}
    save_file(rows, tmp_path / "portrait_embeddings.safetensors")
    save_file(kohya_lora(), tmp_path / "portrait_sdxl.safetensors")
    (tmp_path / "special_params.json").write_text('{"TOK": "<s0><s1>"}')
    (tmp_path / "training_args.json").write_text("{}")
    found = load_bundle(tmp_path / chosen)
    assert holds(found, "TOK", rows) and len(found.lora) == 3


def test_invoke_training_in_kohya_form(tmp_path: Path) -> None:
    rows = {"clip_l": draw(2, 768), "clip_g": draw(2, 1280)}
    save_file(rows, tmp_path / "embeddings.safetensors")
    save_file(kohya_lora(), tmp_path / "lora.safetensors")
    for chosen in ("", "lora.safetensors", "embeddings.safetensors"):
        found = load_bundle(tmp_path / chosen)
        assert holds(found, "embeddings", rows) and len(found.lora) == 3


def test_invoke_training_in_peft_form(tmp_path: Path) -> None:
    """A folder of PEFT for each part; PEFT's own code writes it."""
    peft = pytest.importorskip("peft")
    names = ["down_blocks", "1", "attentions", "0", "transformer_blocks", "0", "attn2"]
    model: torch.nn.Module = torch.nn.ModuleDict({"to_k": torch.nn.Linear(2048, 640)})
    for name in reversed(names):
        model = torch.nn.ModuleDict({name: model})
    made = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=1.0, target_modules=["to_k"]))
    for key, parameter in made.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(parameter)
    made.save_pretrained(tmp_path / "unet")
    rows = {"clip_l": draw(2, 768), "clip_g": draw(2, 1280)}
    save_file(rows, tmp_path / "embeddings.safetensors")
    found = load_bundle(tmp_path)
    state = peft.get_peft_model_state_dict(made)
    up, down = (next(t for key, t in state.items() if part in key) for part in ("lora_B", "lora_A"))
    wanted = {f"{GENERIC}.lora_up.weight": up, f"{GENERIC}.lora_down.weight": down}
    assert same(found.lora, wanted | {f"{GENERIC}.alpha": torch.tensor(1.0)})
    assert holds(found, "embeddings", rows)


def test_a_folder_that_no_program_writes_is_not_guessed_at(tmp_path: Path) -> None:
    save_file(kohya_lora(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="no program is known that writes such a folder"):
        load_bundle(tmp_path)


def test_files_that_only_lie_side_by_side_stay_apart(tmp_path: Path) -> None:
    """A folder of many LoRA files is no bundle because one of them has files beside it."""
    for name in ("lora", "other", "run"):
        save_file(kohya_lora(), tmp_path / f"{name}.safetensors")
    write_cog(tmp_path, {"TOK": "<s0>"}, 1)
    save_file({"clip_l": draw(1, 768)}, tmp_path / "run_emb.safetensors")
    assert not load_bundle(tmp_path / "other.safetensors").embeddings
    assert list(load_bundle(tmp_path / "run.safetensors").embeddings) == ["run_emb"]
    assert list(load_bundle(tmp_path / "lora.safetensors").embeddings) == ["TOK"]
    assert len(to_generic(load_bundle(tmp_path / "other.safetensors").lora, "sdxl")) == 3


CLIP = "text_model.encoder.layers.0.self_attn.q_proj"
DOUBLE, SINGLE = "transformer.double_blocks.0.", "transformer.single_blocks.1."
# OneTrainer's conversion tables: a layer's OMI name, and a name that ComfyUI's loader has for it
OMI = {
    "sd15": {
        "unet.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0": (
            "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0"
        ),
        "unet.middle_block.0.in_layers.2": "diffusion_model.middle_block.0.in_layers.2",
        "unet.time_embed.0": "diffusion_model.time_embed.0",
        f"clip_l.{CLIP}": f"text_encoder.{CLIP}",
    },
    "flux": {
        f"{DOUBLE}img_attn.qkv.1": "transformer.transformer_blocks.0.attn.to_k",
        f"{DOUBLE}txt_attn.qkv.2": "transformer.transformer_blocks.0.attn.add_v_proj",
        f"{SINGLE}linear1.3": "transformer.single_transformer_blocks.1.proj_mlp",
        f"{SINGLE}linear2": "diffusion_model.single_blocks.1.linear2",
        "transformer.img_in.proj": "diffusion_model.img_in",
        "transformer.final_layer.adaLN_modulation.1": (
            "diffusion_model.final_layer.adaLN_modulation.1"
        ),
        f"clip_l.{CLIP}": f"text_encoder.{CLIP}",
        "t5.encoder.block.3.layer.1.DenseReluDense.wi_0": (
            "text_encoders.t5xxl.transformer.encoder.block.3.layer.1.DenseReluDense.wi_0"
        ),
    },
}


@pytest.mark.parametrize("family", OMI)
@pytest.mark.parametrize("bundled", [True, False])
def test_onetrainer_backups_in_the_omi_layout(tmp_path: Path, family: str, bundled: bool) -> None:
    names = OMI[family]
    tensors = {
        f"{stem}.{end}": torch.full((2, 2), float(number))
        for number, stem in enumerate(names)
        for end in ("lora_up.weight", "lora_down.weight")
    } | {f"{stem}.alpha": torch.tensor(1.0) for stem in names}
    rows = {"bundle_emb.cat.clip_l": draw(2, 768)} if bundled else {}
    save_file(tensors | rows, tmp_path / "x.safetensors")
    found = load_bundle(tmp_path / "x.safetensors")
    assert found.names == ["cat"] * bundled and not found.notes
    wanted = {
        key.replace(stem, name, 1): tensor
        for stem, name in names.items()
        for key, tensor in tensors.items()
        if key.startswith(f"{stem}.")
    }
    assert same(found.lora, wanted)


def test_a_unet_with_self_attention_alone_is_read_in_the_host_s_words(tmp_path: Path) -> None:
    """Nothing in it tells the family, whose cross-attention would."""
    stem = "output_blocks.5.1.transformer_blocks.0.attn1.to_k"
    for prefix in ("unet.", ""):
        tensors = {f"{prefix}{stem}.lora_{end}.weight": torch.ones(2, 2) for end in ("up", "down")}
        save_file(tensors, tmp_path / "x.safetensors")
        assert {
            key.partition(".lora")[0] for key in load_bundle(tmp_path / "x.safetensors").lora
        } == {f"diffusion_model.{stem}"}


@pytest.mark.parametrize(
    ("key", "name", "unsure"),
    [
        ("bundle_emb_my.tok.clip_l", "my.tok", False),
        ("bundle_emb_v1.0.clip_l", "v1.0", False),
        ("bundle_emb_a_b.c.clip_l_out", "a_b.c", True),
        ("bundle_emb.v1.0.clip_l", "v1.0", False),
    ],
)
def test_a_placeholder_with_a_dot_keeps_its_name(
    tmp_path: Path, key: str, name: str, unsure: bool
) -> None:
    """OneTrainer's legacy layout joins all but the last two parts of a key by an underscore."""
    rows = draw(2, 768)
    save_file(kohya_lora(768) | {key: rows}, tmp_path / "x.safetensors")
    found = load_bundle(tmp_path / "x.safetensors")
    assert found.names == [name] and len(found.lora) == 3
    assert same(
        (found.outputs if key.endswith("_out") else found.embeddings)[name], {"clip_l": rows}
    )
    assert any("may have been trained with a dot" in note for note in found.notes) == unsure


@pytest.mark.parametrize("beside", ["x_emb.safetensors", "x_embeddings/cat.safetensors"])
def test_names_in_the_chosen_file_come_before_those_beside_it(tmp_path: Path, beside: str) -> None:
    own = {f"bundle_emb.{name}.clip_l": torch.full((1, 768), 1.0) for name in ("cat", "own")}
    save_file(kohya_lora(768) | own, tmp_path / "x.safetensors")
    (tmp_path / beside).parent.mkdir(exist_ok=True)
    save_file({"clip_l": torch.full((2, 768), 5.0)}, tmp_path / beside)
    found = load_bundle(tmp_path / "x.safetensors")
    assert found.names[:2] == ["cat", "own"]
    for name in ("cat", "own"):
        assert holds(found, name, {"clip_l": torch.full((1, 768), 1.0)})
    if beside.startswith("x_embeddings"):
        assert found.names == ["cat", "own"]
        assert "The 'cat' of cat.safetensors is left out: the file has its own." in found.notes
    else:
        assert found.names == ["cat", "own", "x_emb"]
        split = load_bundle(tmp_path / "x.safetensors", token_map="a = 1; b = 1")
        assert split.names == ["cat", "own", "a", "b"]


def test_an_embedding_beside_the_pair_of_its_name_stays_itself(tmp_path: Path) -> None:
    rows = draw(2, 768)
    save_file({"clip_l": rows}, tmp_path / "cat.safetensors")
    save_file({"clip_l": draw(2, 768)}, tmp_path / "cat_emb.safetensors")
    assert holds(load_bundle(tmp_path / "cat.safetensors"), "cat", {"clip_l": rows})


@pytest.mark.parametrize("key", [f"{KOHYA}.lora_up.weight", f"{KOHYA}.alpha"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_named(tmp_path: Path, key: str, number: float) -> None:
    made = kohya_lora(768)
    made[key].view(-1)[-1] = number
    save_file(made, tmp_path / "x.safetensors")
    sentence = f"{key} holds NaN or infinite values"
    with pytest.raises(ValueError, match=sentence):
        load_bundle(tmp_path / "x.safetensors")
    looked = load_bundle(tmp_path / "x.safetensors", finite=False)
    assert f"NaN or infinite values in {key}" in as_text(inspect_bundle(looked))
    with pytest.raises(ValueError, match=sentence):
        save_bundle(looked, tmp_path / "y.safetensors", Container.A1111, None)
    with pytest.raises(ValueError, match=sentence):
        trim_lora(looked.lora, Trimming())
    with pytest.raises(ValueError, match=sentence):
        merge_bundles([looked, looked], [1, 1], NameClash.ERROR)


@pytest.mark.parametrize("word", ["x" * 5000, "a b" * 1700, "猫" * 5000])
def test_a_name_of_thousands_of_letters_is_cut_wherever_it_is_shown(
    tmp_path: Path, word: str
) -> None:
    """The name itself stays whole, and a prompt finds it."""
    rows = torch.zeros(1, 768)
    save_file({f"bundle_emb.{word}.clip_l": rows}, tmp_path / "x.safetensors")
    found = load_bundle(tmp_path / "x.safetensors")
    assert found.names == [word] and found.notes
    with pytest.raises(ValueError) as unknown:
        found.without(["y" * 5000])
    with pytest.raises(ValueError) as clash:
        merge_bundles([found, found], [1, 1], NameClash.ERROR)
    save_file({f"bundle_emb.{word}.clip_l": rows / 0}, tmp_path / "y.safetensors")
    with pytest.raises(ValueError) as damaged:
        load_bundle(tmp_path / "y.safetensors")
    numbered = merge_bundles([found, found], [1, 1], NameClash.NUMBER)
    shown = as_text(inspect_bundle(found))
    sentences = [*found.notes, *numbered.notes, *map(str, (unknown.value, clash.value))]
    for text in (*sentences, str(damaged.value), *shown.splitlines()):
        assert len(text) < 500
