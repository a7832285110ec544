"""A LoRA whose layers do not all fit: what fits acts as in the host, and the rest is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.lora
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from factories import lora, random_vectors
from pack.bundles.bundle import Bundle
from pack.bundles.load import load_bundle
from pack.bundles.trim import Keep, Trimming, trim_lora
from pack.nodes.host.bundle.apply import apply_bundle
from world import families

BLOCK = "diffusion_model.input_blocks.1.1.transformer_blocks.0."
Q, K, V, OUT = (f"{BLOCK}attn1.to_{part}" for part in ("q", "k", "v", "out.0"))
CONTEXT = f"{BLOCK}attn2.to_k"
TEXT = "text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn."
NAN = float("nan")


def apply(loaded: Any, tensors: dict[str, Tensor]) -> tuple[dict[str, Any], list[str]]:
    """The weights that have a patch, and the notes."""
    model, clip, _, notes = apply_bundle(
        loaded.model, loaded.clip, Bundle(family="", lora=tensors, embeddings={})
    )
    return {**model.patches, **clip.patcher.patches}, notes


def fitting() -> dict[str, Tensor]:
    return lora({Q: (320, 320), K: (320, 320), V: (320, 320)}, rank=2)


WIDE = "is made for a layer of 320 x 1024, which is 320 x 768 here"
SQUARE = "is made for a layer of 640 x 640, which is 320 x 320 here"
OTHER_SIZES = {
    "lora": (CONTEXT, lora({"": (320, 1024)}), WIDE),
    "kernel": (OUT, lora({"": (320, 320, 3, 3)}), "is made for a layer of 320 x 2880"),
    "inner ranks": (
        OUT,
        {".lora_up.weight": torch.ones(320, 4), ".lora_down.weight": torch.ones(3, 320)},
        "has parts that do not match each other",
    ),
    "one axis": (
        OUT,
        {".lora_up.weight": torch.ones(320), ".lora_down.weight": torch.ones(1, 320)},
        "has parts that do not match each other",
    ),
    "loha": (
        OUT,
        {f".hada_w{n}_a": torch.ones(640, 2) for n in (1, 2)}
        | {f".hada_w{n}_b": torch.ones(2, 640) for n in (1, 2)},
        SQUARE,
    ),
    "lokr": (OUT, {".lokr_w1": torch.ones(4, 4), ".lokr_w2": torch.ones(160, 160)}, SQUARE),
    "lokr in parts": (
        OUT,
        {".lokr_w1": torch.ones(4, 4), ".lokr_w2_a": torch.ones(160, 2)}
        | {".lokr_w2_b": torch.ones(2, 160)},
        SQUARE,
    ),
    "glora": (
        OUT,
        {".a1.weight": torch.ones(640, 2), ".a2.weight": torch.ones(2, 640)}
        | {".b1.weight": torch.ones(640, 2), ".b2.weight": torch.ones(2, 640)},
        "has parts that do not match each other",
    ),
    "oft": (OUT, {".oft_blocks": torch.ones(4, 160, 160)}, "is made for 640 outputs of a layer"),
    "boft": (
        OUT,
        {".oft_blocks": torch.ones(2, 4, 160, 160), ".alpha": torch.tensor(1.0)},
        "is made for 640 outputs of a layer",
    ),
    "diff": (OUT, {".diff": torch.ones(640, 640)}, SQUARE),
    "bias": (OUT, {".diff_b": torch.ones(640)}, "is made for a layer of 640, which is 320 here"),
    "no bias": (Q, {".diff_b": torch.ones(320)}, "is for a weight that this model does not have"),
    "value": (OUT, {".set_weight": torch.ones(640, 640)}, SQUARE),
    "dora": (
        OUT,
        lora({"": (320, 320)}) | {".dora_scale": torch.ones(640, 1)},
        "has a dora_scale of the shape (640, 1)",
    ),
    "text": (f"{TEXT}q_proj", lora({"": (1024, 1024)}), "is made for a layer of 1024 x 1024"),
}


@pytest.mark.parametrize("kind", OTHER_SIZES)
def test_one_layer_of_another_size_is_left_out_and_named(sd15: Any, kind: str):
    layer, parts, sentence = OTHER_SIZES[kind]
    wanted, _ = apply(sd15, fitting())
    made = {f"{layer}{end}": tensor for end, tensor in parts.items()}
    found, notes = apply(sd15, fitting() | made)
    assert found.keys() == wanted.keys() and len(found) == 3
    assert len(notes) == 1 and sentence in notes[0] and notes[0].endswith(": it is left out.")
    assert layer in notes[0].replace("text_encoders.", "") or kind == "text"


@pytest.mark.parametrize("kind", [one for one in OTHER_SIZES if one != "text"])
def test_the_host_itself_leaves_such_a_weight_unchanged(sd15: Any, kind: str):
    """By its own loader, which logs it or fails only when it samples."""
    layer, parts, _ = OTHER_SIZES[kind]
    keys = comfy.lora.model_lora_keys_unet(sd15.model.model, {})
    made = {f"{layer}{end}": tensor for end, tensor in parts.items()}
    state = sd15.model.model.state_dict()
    for target, patch in comfy.lora.load_lora(made, keys).items():
        if target not in state:
            continue
        before = state[target].float()
        try:
            after = comfy.lora.calculate_weight(
                [(1.0, patch, 1.0, None, None)], before.clone(), target
            )
        except (RuntimeError, IndexError, UnboundLocalError):
            continue
        assert torch.equal(after, before)


@pytest.mark.parametrize("kind", OTHER_SIZES)
def test_a_file_with_no_layer_of_the_right_size_is_refused(sd15: Any, kind: str):
    layer, parts, sentence = OTHER_SIZES[kind]
    with pytest.raises(ValueError) as caught:
        apply(sd15, {f"{layer}{end}": tensor for end, tensor in parts.items()})
    damaged = "parts that do not match" in sentence
    cure = "the file is damaged" if damaged else "the bundle belongs to another model family"
    assert sentence in str(caught.value) and cure in str(caught.value)


def test_most_of_the_diffusion_model_decides(sd15: Any):
    """A text encoder of another width is named, however many layers it has."""
    text = {f"{TEXT}{part}_proj": (1024, 1024) for part in "qkv"} | {f"{TEXT}out_proj": (2, 2)}
    found, notes = apply(sd15, lora({Q: (320, 320)}) | lora(text))
    assert len(found) == 1 and len(notes) == 2
    assert "and " not in notes[1] and "q_proj.weight, " in notes[0]
    with pytest.raises(ValueError, match="belongs to another model family"):
        apply(sd15, lora({Q: (320, 320), K: (640, 640), V: (640, 640)}))


@pytest.mark.parametrize("alpha", [True, False])
def test_a_layer_of_rank_0_changes_nothing(sd15: Any, alpha: bool):
    none = {
        f"{OUT}.lora_up.weight": torch.ones(320, 0),
        f"{OUT}.lora_down.weight": torch.ones(0, 320),
    }
    none |= {f"{OUT}.alpha": torch.tensor(1.0)} if alpha else {}
    for others in ({}, fitting()):
        found, notes = apply(sd15, others | none)
        assert len(found) == len(others) // 2
        assert notes == [f"1 layers of rank 0 change nothing: {OUT}.weight."]


@pytest.mark.parametrize("end", ["lora_up.weight", "lora_down.weight"])
def test_a_layer_with_half_of_its_factors_is_called_damaged(sd15: Any, end: str):
    half = {key: tensor for key, tensor in lora({OUT: (320, 320)}).items() if key.endswith(end)}
    missing = f"{OUT}.lora_{'down' if 'up' in end else 'up'}.weight"
    with pytest.raises(ValueError, match=f"LoRA lacks {missing}, a part of a layer"):
        apply(sd15, half)
    if end == "lora_down.weight":
        found, notes = apply(sd15, fitting() | half)
        assert len(found) == 3 and f"lacks {missing}" in notes[0]


@pytest.mark.parametrize("end", ["lora_up.weight", "alpha"])
def test_a_connected_lora_with_nan_is_refused(sd15: Any, end: str):
    made = lora({Q: (320, 320)}, alpha=1.0)
    made[f"{Q}.{end}"].view(-1)[0] = NAN
    with pytest.raises(ValueError, match=f"{Q}.{end} holds NaN or infinite values"):
        apply(sd15, made)


FLUX = "diffusion_model.double_blocks.0.img_attn."
PART = "transformer.transformer_blocks.0.attn.to_k"


@pytest.fixture(scope="module")
def flux(host: Any) -> Any:
    with torch.inference_mode():
        model, clip, _ = families.load("flux")
    return type("Loaded", (), {"model": model, "clip": clip})


def test_a_part_of_a_joint_weight_is_measured_as_a_part(flux: Any):
    width = flux.model.model.state_dict()[f"{FLUX}proj.weight"].shape[0]
    good, bad = lora({PART: (width, width)}), lora({PART: (3 * width, width)})
    assert apply(flux, good)[1] == []
    with pytest.raises(ValueError, match=f"of {3 * width} x {width}, which is {width} x {width}"):
        apply(flux, bad)
    _, notes = apply(flux, bad | lora({f"{FLUX}proj": (width, width)}))
    assert f"{FLUX}qkv.weight is made for a layer of" in notes[0]


def test_a_trimmed_control_lora_changes_the_model_as_before(flux: Any):
    """It doubles the channels of the first layer, sets norms and adds to biases."""
    state = flux.model.model.state_dict()
    rows, columns = state["diffusion_model.img_in.weight"].shape
    norm = state["diffusion_model.single_blocks.0.norm.key_norm.weight"]
    made = {
        "img_in.lora_A.weight": torch.randn(2, 2 * columns),
        "img_in.lora_B.weight": torch.randn(rows, 2),
        "img_in.lora_B.bias": torch.randn(rows),
        "single_blocks.0.norm.key_norm.scale": torch.randn_like(norm),
    }
    trimmed = dict(trim_lora(made, Trimming(keep=Keep.COUNT, count=2)).lora)
    (before, notes), (after, later) = apply(flux, made), apply(flux, trimmed)
    assert notes == later == [] and before.keys() == after.keys() and len(before) == 3
    for key, patches in before.items():
        one, other = (
            comfy.lora.calculate_weight(given, state[key].float().clone(), key)
            for given in (patches, after[key])
        )
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "made_for"), [("flux", "sd15"), ("sd3", "sdxl")])
def test_names_for_a_part_of_the_encoders_are_taken_with_a_note(
    host: Any, tmp_path: Path, family: str, made_for: str
):
    """Their widths fit, and other programs load such a file; a LoRA would show the family."""
    with torch.inference_mode():
        model, clip, _ = families.load(family)
    vectors = random_vectors(made_for, 1)
    save_file(vectors, tmp_path / "cat.safetensors")
    bundle = load_bundle(tmp_path / "cat.safetensors")
    assert bundle.family == made_for
    _, _, names, notes = apply_bundle(model, clip, bundle)
    assert names == ["cat"] and notes[0].startswith(f"Vectors for {', '.join(sorted(vectors))} al")
    assert f"usually made for {made_for}, and the MODEL is {family}" in notes[0]
    assert "cat has no vectors for t5xxl" in notes[1]
    surely = Bundle(family=made_for, lora=lora({"x": (2, 2)}), embeddings=bundle.embeddings)
    with pytest.raises(ValueError, match=f"The bundle was made for {made_for}"):
        apply_bundle(model, clip, surely)


def test_every_layer_of_an_omi_file_finds_its_weight(flux: Any, tmp_path: Path):
    """OneTrainer's names of Flux: parts of a joint weight by number, all others as in the model."""
    state = flux.model.model.state_dict()

    def size(name: str) -> tuple[int, ...]:
        return tuple(state[f"diffusion_model.{name}.weight"].shape)

    width = size("double_blocks.0.img_attn.proj")[0]
    layers = {
        "transformer.double_blocks.0.img_attn.qkv.1": (width, width),
        "transformer.double_blocks.0.txt_attn.qkv.2": (width, width),
        "transformer.double_blocks.0.img_mlp.0": size("double_blocks.0.img_mlp.0"),
        "transformer.single_blocks.0.linear1.0": (width, width),
        "transformer.single_blocks.0.linear1.3": (4 * width, width),
        "transformer.img_in.proj": size("img_in"),
        "transformer.final_layer.adaLN_modulation.1": size("final_layer.adaLN_modulation.1"),
    }
    save_file(lora(layers, rank=2, alpha=1.0), tmp_path / "omi.safetensors")
    found, notes = apply(flux, dict(load_bundle(tmp_path / "omi.safetensors").lora))
    places = {(key.removeprefix("diffusion_model."), p[3]) for key in found for p in found[key]}
    assert notes == [] and places == {
        ("double_blocks.0.img_attn.qkv.weight", (0, width, width)),
        ("double_blocks.0.txt_attn.qkv.weight", (0, 2 * width, width)),
        ("double_blocks.0.img_mlp.0.weight", None),
        ("single_blocks.0.linear1.weight", (0, 0, width)),
        ("single_blocks.0.linear1.weight", (0, 3 * width, 4 * width)),
        ("img_in.weight", None),
        ("final_layer.adaLN_modulation.1.weight", None),
    }
