"""Adapters that PEFT itself has saved: each layer changes as PEFT changes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bundles.formats.test_diffusers import make_encoder, make_unet
from safetensors.torch import save_file
from torch import Tensor

from pack.bundles.edit import NameClash, merge_bundles
from pack.bundles.files.safetensors import read_safetensors
from pack.bundles.layers.generic import unet_module
from pack.bundles.load import files_of, load_bundle
from pack.bundles.save import Container, save_bundle, warnings_for
from pack.bundles.trim import Keep, Trimming, spectrum_report, trim_lora

peft = pytest.importorskip("peft")
RANK, ALPHA = 2, 3.0
UPPER = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
MORE = {"alpha_pattern": {"attn1.to_k": 7.0, f"^{UPPER}": 5.0}, "rank_pattern": {UPPER: 3}}
FILE, CONFIG, PREFIX = "adapter_model.safetensors", "adapter_config.json", "base_model.model."


def adapted(model: torch.nn.Module, targets: list[str], **more: Any) -> Any:
    """A model with a LoRA of PEFT on all layers of these names, its weights random."""
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, **more)
    made = peft.get_peft_model(model, config)
    draw = torch.Generator().manual_seed(2)
    for name, parameter in made.named_parameters():
        if "lora_" in name:
            parameter.data = torch.rand(parameter.shape, generator=draw)
    return made


def changes(made: Any) -> dict[str, Tensor]:
    """What PEFT adds to the weight of each layer."""
    return {
        name.removeprefix("base_model.model."): layer.get_delta_weight("default").detach()
        for name, layer in made.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


def delta(lora: Any, stem: str) -> Tensor:
    up, down = lora[f"{stem}.lora_up.weight"], lora[f"{stem}.lora_down.weight"]
    alpha = lora.get(f"{stem}.alpha", torch.tensor(float(len(down))))
    return (alpha / len(down) * up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:])


@pytest.fixture(scope="module")
def unet() -> torch.nn.Module:
    return make_unet((True, True, True, False), 1, 768)


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("chosen", [FILE, ""])
def test_an_adapter_chosen_by_itself_changes_each_layer_as_in_peft(
    unet: torch.nn.Module, tmp_path: Path, stable: bool, chosen: str
) -> None:
    made = adapted(unet, ["to_k", "conv1"], use_rslora=stable, **MORE)
    made.save_pretrained(tmp_path / "my style")
    wanted = changes(made)
    made.unload()
    path = tmp_path / "my style" / chosen
    found = load_bundle(path)
    assert found.family == "sd15" and len(found.lora) == 3 * len(wanted) > 90
    for name, change in wanted.items():
        stem = f"diffusion_model.{unet_module(name.replace('.', '_'), 'sd15')}"
        torch.testing.assert_close(delta(found.lora, stem), change)
    assert found.notes == (f"Read as an adapter of PEFT, together with {CONFIG}.",)
    assert [file.name for file in files_of(path)] == [FILE, CONFIG]


def test_without_its_configuration_the_alpha_is_a_note(
    unet: torch.nn.Module, tmp_path: Path
) -> None:
    made = adapted(unet, ["to_q"])
    made.save_pretrained(tmp_path)
    wanted = changes(made)
    made.unload()
    (tmp_path / CONFIG).unlink()
    found = load_bundle(tmp_path / FILE)
    assert "its alpha is taken to be its rank: put both into one folder" in " ".join(found.notes)
    for name, change in wanted.items():
        stem = f"diffusion_model.{unet_module(name.replace('.', '_'))}"
        torch.testing.assert_close(ALPHA / RANK * delta(found.lora, stem), change)


@pytest.mark.parametrize(
    ("width", "part"), [(768, "text_encoder"), (1024, "text_encoder"), (1280, "text_encoder_2")]
)
@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("word", ["text_model.", ""])
def test_the_adapter_of_a_text_encoder_is_told_by_its_width(
    tmp_path: Path, width: int, part: str, config: bool, word: str
) -> None:
    from transformers import CLIPTextModel

    made = adapted(make_encoder(CLIPTextModel, width, 8), ["q_proj", "fc1"])
    made.save_pretrained(tmp_path)
    if not config:
        (tmp_path / CONFIG).unlink()
    wanted = {
        f"{part}.text_model.{name.removeprefix('text_model.')}": change
        for name, change in changes(made).items()
    }
    rename_layers(tmp_path / FILE, word)
    found = load_bundle(tmp_path / FILE).lora
    stems = {key.rpartition(".lora_")[0] for key in found if ".lora_" in key}
    assert stems == set(wanted) and len(found) == (3 if config else 2) * len(stems)


def rename_layers(path: Path, word: str) -> None:
    """As transformers before its version 5 wrote it, or since, where a word is missing."""
    tensors, _ = read_safetensors(path)
    layers = {key.removeprefix(PREFIX).removeprefix("text_model."): key for key in tensors}
    save_file({f"{PREFIX}{word}{layer}": tensors[key] for layer, key in layers.items()}, path)


@pytest.mark.parametrize("word", ["text_model.", ""])
def test_folders_of_a_pipeline_know_one_family(tmp_path: Path, word: str) -> None:
    """invoke-training's: the width in the UNet tells whose text encoders the others are."""
    from transformers import CLIPTextModel

    made = adapted(make_unet((False, True, True), (1, 2, 3), 2048), ["to_k"])
    made.save_pretrained(tmp_path / "unet")
    for number, width in ((1, 768), (2, 1280)):
        encoder = adapted(make_encoder(CLIPTextModel, width, 8), ["q_proj"])
        encoder.save_pretrained(tmp_path / f"text_encoder_{number}")
        rename_layers(tmp_path / f"text_encoder_{number}" / FILE, word)
    vectors = {"clip_l": torch.randn(1, 768), "clip_g": torch.randn(1, 1280)}
    save_file(vectors, tmp_path / "embeddings.safetensors")
    found = load_bundle(tmp_path)
    heads = {key.split(".transformer.")[0] for key in found.lora if key.startswith("text_")}
    assert heads == {"text_encoders.clip_l", "text_encoders.clip_g"} and found.family == "sdxl"


def test_a_transformers_adapter_keeps_the_names_of_peft(tmp_path: Path) -> None:
    """Each family's loader has another prefix for them, which Load Bundle knows from the model."""
    tree: torch.nn.Module = torch.nn.ModuleDict({"to_q": torch.nn.Linear(8, 8)})
    for name in ("attn", "0", "transformer_blocks"):
        tree = torch.nn.ModuleDict({name: tree})
    made = adapted(tree, ["to_q"])
    made.save_pretrained(tmp_path)
    found = load_bundle(tmp_path / FILE).lora
    stem = "base_model.model.transformer_blocks.0.attn.to_q"
    assert found.keys() == {f"{stem}.lora_A.weight", f"{stem}.lora_B.weight", f"{stem}.alpha"}
    assert found[f"{stem}.alpha"] == ALPHA


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"peft_type": "LOHA", "alpha": 4}', "it is PEFT's LOHA, and of PEFT only LoRA and DoRA"),
        ("{", f"{CONFIG} cannot be read"),
        ('{"lora_alpha": "much"}', "the alpha of its layer mid_block.x is not a number"),
    ],
)
def test_a_configuration_that_cannot_be_followed_is_a_sentence(
    tmp_path: Path, text: str, sentence: str
) -> None:
    stem = "base_model.model.mid_block.x"
    save_file({f"{stem}.lora_{end}.weight": torch.ones(1, 1) for end in "AB"}, tmp_path / FILE)
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(ValueError, match=sentence):
        load_bundle(tmp_path / FILE)


def test_lengths_of_a_dora_stay_under_their_own_name(unet: torch.nn.Module, tmp_path: Path) -> None:
    made = adapted(unet, ["to_q", "conv1"], use_dora=True)
    made.save_pretrained(tmp_path)
    layers = changes(made)
    made.unload()
    bundle = load_bundle(tmp_path / FILE)
    lengths = [key for key in bundle.lora if key.endswith(".lora_magnitude_vector")]
    assert len(lengths) == len(layers) and not any("dora_scale" in key for key in bundle.lora)
    for container in (Container.A1111, Container.HEADER, Container.LOOSE):
        path = tmp_path / f"{container.value}.safetensors"
        save_bundle(bundle, path, container, None)
        again = load_bundle(path)
        assert sum("lora_magnitude_vector" in key for key in again.lora) == len(lengths)
        stems = {key.partition(".lora_")[0] for key in again.lora if ".lora_" in key}
        assert len(stems) == len(layers)
        assert "Load Bundle gives its weights their lengths" in warnings_for(again, container)[-1]
    with pytest.raises(ValueError, match="lora_magnitude_vector does not belong to a pair"):
        merge_bundles([bundle, bundle], [1, 1], NameClash.ERROR)
    trimmed = trim_lora(bundle.lora, Trimming(keep=Keep.COUNT, count=1))
    assert all(torch.equal(trimmed.lora[key], bundle.lora[key]) for key in lengths)
    assert "only Load Bundle reads the lengths" in spectrum_report(trimmed)


def test_the_configuration_is_no_text_of_any_length(tmp_path: Path) -> None:
    save_file(
        {f"base_model.model.a.lora_{end}.weight": torch.ones(1, 1) for end in "AB"}, tmp_path / FILE
    )
    (tmp_path / CONFIG).write_text(json.dumps({"lora_alpha": 2, "x": "x" * 2**20}))
    with pytest.raises(ValueError, match=f"{CONFIG} is too long for a configuration"):
        load_bundle(tmp_path / FILE)


def tree() -> torch.nn.Module:
    """A transformer's layer, by diffusers' names."""
    made: torch.nn.Module = torch.nn.ModuleDict({"to_q": torch.nn.Linear(8, 8)})
    for name in ("attn", "0", "transformer_blocks"):
        made = torch.nn.ModuleDict({name: made})
    return made


def started(start: Any) -> tuple[Any, Tensor, Any]:
    """An adapter of PEFT after a step, the layer's weight of before, and the layer."""
    model = tree()
    layer = model["transformer_blocks"]["0"]["attn"]["to_q"]
    before = layer.weight.detach().clone()
    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=["to_q"], init_lora_weights=start
    )
    return peft.get_peft_model(model, config), before, layer


STEM = "base_model.model.transformer_blocks.0.attn.to_q"
HEADER = "lora_adapter_metadata"


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_an_adapter_that_changed_its_base_model_is_refused_until_it_is_converted(
    tmp_path: Path, start: str
) -> None:
    made, before, _ = started(start)
    made.save_pretrained(tmp_path / "start")
    for name, parameter in made.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1
    made.save_pretrained(tmp_path / "as it is")
    with pytest.raises(ValueError, match=f"began with {start}, which changed the base model's"):
        load_bundle(tmp_path / "as it is")
    initial = str(tmp_path / "start")
    made.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=initial)
    found = load_bundle(tmp_path / "converted").lora
    up, down = found[f"{STEM}.lora_B.weight"], found[f"{STEM}.lora_A.weight"]
    change = found[f"{STEM}.alpha"] / len(down) * up @ down
    merged = made.merge_and_unload()["transformer_blocks"]["0"]["attn"]["to_q"].weight
    torch.testing.assert_close(before + change, merged, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("start", "refused"),
    [("pissa", True), ("olora", True), ("corda", True), ("eva", False), (True, False)],
)
def test_diffusers_header_tells_how_a_training_began(
    tmp_path: Path, start: Any, refused: bool
) -> None:
    stem = "transformer.transformer_blocks.0.attn.to_q"
    config = {"transformer.lora_alpha": 2, "transformer.init_lora_weights": start}
    save_file(
        {f"{stem}.lora_{end}.weight": torch.ones(2, 2) for end in "AB"},
        tmp_path / "x.safetensors",
        {HEADER: json.dumps(config)},
    )
    if refused:
        with pytest.raises(ValueError, match=f"began with {start}, which changed the base"):
            load_bundle(tmp_path / "x.safetensors")
    else:
        assert load_bundle(tmp_path / "x.safetensors").lora[f"{stem}.alpha"] == 2


@pytest.mark.parametrize("prefix", ["transformer.", "base_model.model.", "unet.", ""])
@pytest.mark.parametrize("adapter", ["default_0", "my-style"])
def test_the_name_of_an_adapter_in_the_keys_changes_nothing(
    tmp_path: Path, prefix: str, adapter: str
) -> None:
    stem = prefix + ("mid_block.attentions.0" if prefix == "unet." else "blocks.0")
    stem += ".transformer_blocks.0.attn1.to_q"
    read = []
    for name in ("", f".{adapter}"):
        factors = {f"{stem}.lora_{end}{name}.weight": torch.full((2, 2), 2.0) for end in "AB"}
        save_file(factors, tmp_path / "x.safetensors")
        read.append(load_bundle(tmp_path / "x.safetensors").lora)
    assert read[0].keys() == read[1].keys()
    assert all(torch.equal(read[0][key], read[1][key]) for key in read[0])
    one, other = f"{stem}.lora_A.{adapter}.weight", f"{stem}.lora_A.second.weight"
    save_file({one: torch.ones(2, 2), other: torch.ones(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="holds two adapters, .* for the same layers"):
        load_bundle(tmp_path / "x.safetensors")


def test_the_name_that_the_host_knows_itself_stays(tmp_path: Path) -> None:
    factors = {f"transformer.x.lora_{end}.default.weight": torch.ones(2, 2) for end in "AB"}
    save_file(factors, tmp_path / "x.safetensors")
    assert load_bundle(tmp_path / "x.safetensors").lora.keys() == factors.keys()


@pytest.mark.parametrize("kind", ["LOHA", "LOKR", "ADALORA", "OFT"])
@pytest.mark.parametrize("alone", [True, False])
def test_other_adapters_of_peft_are_told_with_or_without_their_configuration(
    tmp_path: Path, kind: str, alone: bool
) -> None:
    more = {
        "LOHA": {"r": 2},
        "LOKR": {"r": 2},
        "ADALORA": {"init_r": 2, "target_r": 1, "total_step": 10},
        "OFT": {"oft_block_size": 4, "r": 0},
    }
    config = {"LOHA": "LoHaConfig", "LOKR": "LoKrConfig", "ADALORA": "AdaLoraConfig"}
    made = getattr(peft, config.get(kind, "OFTConfig"))(target_modules=["to_q"], **more[kind])
    peft.get_peft_model(tree(), made).save_pretrained(tmp_path)
    if alone:
        (tmp_path / CONFIG).unlink()
    with pytest.raises(ValueError, match=f"it is PEFT's {kind}, and of PEFT only LoRA and DoRA"):
        load_bundle(tmp_path / FILE)
