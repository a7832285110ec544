"""Merge Bundles on every name that the host's loader has for a layer: none is lost in silence."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import comfy.lora
import comfy.model_management as management
import comfy.utils
import pytest
import torch
from bundles.layers.test_generic import _LAYOUTS, HostModel

from factories import lora
from harness.host.runner import Loaded
from pack.bundles.bundle import Bundle
from pack.bundles.edit import NameClash, merge_bundles
from pack.bundles.layers.aliases import one_spelling
from pack.nodes.host.bundle.apply import apply_bundle
from world import families

OWN, KOHYA = "diffusion_model.", "lora_unet_"
REFUSED = "name their layers in two ways"
Files = Sequence[list[str]]


# The tiny SD2 has another layout than the real one, whose table the host has by itself.
@pytest.fixture(scope="module", params=[one for one in families.TINY if one != "sd2"])
def targets(request: pytest.FixtureRequest, host: Any) -> dict[str, str]:
    """The weight of each name of a layer in a tiny model of a family.

    Parts of a weight are left out: the host adds those to what a file has for the whole.
    """
    with torch.inference_mode():
        model, clip, _ = families.load(request.param)
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, keys)
    weights = {**model.model.state_dict(), **clip.cond_stage_model.state_dict()}
    return matrices(keys, weights)


def matrices(keys: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, str]:
    """The host's tables also have layers that not every model of a family has."""
    known = {key for key, w in weights.items() if key.endswith(".weight") and w.ndim > 1}
    return {stem: weight for stem, weight in keys.items() if weight in known}


def told(files: Files, family: str = "") -> list[dict[str, str]] | None:
    """What the layers are called, None where that is refused."""
    try:
        return one_spelling(files, family)
    except ValueError as error:
        assert REFUSED in str(error)
        return None


def schemes(targets: Mapping[str, str], prefixes: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Whole files, each with the names of one kind, by the weight that they are for."""
    heads = {stem.partition(".")[0] for stem in targets if "." in stem}
    for prefix in prefixes or sorted({*heads, KOHYA, "lycoris_", "lora_transformer_", "lora_te"}):
        found = {weight: stem for stem, weight in targets.items() if stem.startswith(prefix)}
        if found:
            yield found


def assert_kept(one: Mapping[str, str], other: Mapping[str, str], family: str = "") -> bool:
    """Whether two files can be merged, and then each weight keeps one name of its own."""
    names = told([list(one.values()), list(other.values())], family)
    if names is None:
        return False
    weight_of: dict[str, str] = {}
    for file, called in zip((one, other), names, strict=True):
        assert len(set(called.values())) == len(file)
        for weight, stem in file.items():
            assert weight_of.setdefault(called[stem], weight) == weight, (stem, called[stem])
    assert len(weight_of) == len({*one, *other})
    return True


def test_two_names_of_one_layer_meet_or_are_refused(targets: dict[str, str]):
    by_weight: dict[str, list[str]] = {}
    for stem, weight in targets.items():
        by_weight.setdefault(weight, []).append(stem)
    pairs = [p for stems in by_weight.values() for p in itertools.combinations(stems, 2)]
    assert len(pairs) > 10
    for one, other in pairs:
        names = told([[one], [other]])
        assert names is None or names[0][one] == names[1][other], (one, other)


def test_whole_files_of_any_two_kinds_lose_no_layer(targets: dict[str, str]):
    merged = [
        assert_kept(one, other) for one, other in itertools.product(schemes(targets), repeat=2)
    ]
    assert sum(merged) > len(merged) / 3


def test_files_with_few_layers_in_common_lose_none(targets: dict[str, str]):
    for one, other in itertools.product(schemes(targets), repeat=2):
        half = {weight: stem for place, (weight, stem) in enumerate(one.items()) if place % 3}
        rest = {weight: stem for place, (weight, stem) in enumerate(other.items()) if place % 2}
        assert_kept(half, rest)


@pytest.mark.parametrize("part", ["attn", "mlp", ""])
def test_the_host_s_own_names_and_kohya_s_are_never_refused(targets: dict[str, str], part: str):
    own, kohya = schemes(targets, [OWN, KOHYA])
    assert assert_kept(own, {weight: stem for weight, stem in kohya.items() if part in stem})


@pytest.mark.parametrize("layout", ["SD15", "SDXL"])
@pytest.mark.parametrize("known", [True, False])
def test_every_spelling_of_a_unet_means_the_same_weight(host: Any, layout: str, known: bool):
    model = HostModel(_LAYOUTS[layout])
    targets = matrices(comfy.lora.model_lora_keys_unet(model, {}), model.state_dict())
    diffusers = ("unet.", "lycoris_", "lora_unet_down", "lora_unet_up", "lora_unet_mid")
    files = list(schemes(targets, [OWN, "lora_unet_input", "lora_unet_output", *diffusers]))
    assert len(files) == 8
    family = layout.lower() if known else ""
    merged = [assert_kept(one, other, family) for one, other in itertools.product(files, repeat=2)]
    assert all(merged) or not known
    # Without the family the place of two upsamplers in diffusers' words is not told.
    sure = [
        {w: s for w, s in file.items() if "upsamplers" not in s or "blocks.1" in s or "1_up" in s}
        for file in files
    ]
    assert all(assert_kept(one, other, family) for one, other in itertools.product(sure, repeat=2))


TABLES = {
    "flux_to_diffusers": {"depth": 2, "depth_single_blocks": 2, "hidden_size": 8},
    "mmdit_to_diffusers": {"depth": 2},
    "pixart_to_diffusers": {"depth": 2},
    "auraflow_to_diffusers": {"n_double_layers": 2, "n_layers": 4},
    "z_image_to_diffusers": {"n_layers": 2, "dim": 8},
    "krea2_to_diffusers": {"layers": 2},
}


@pytest.mark.parametrize("table", TABLES)
def test_no_pair_of_the_host_s_own_tables_is_lost(table: str):
    """Whether the family is one whose names are known here, or one that is refused."""
    pairs = {
        f"transformer.{theirs.removesuffix('.weight')}": own.removesuffix(".weight")
        for theirs, own in getattr(comfy.utils, table)(TABLES[table], OWN).items()
        if isinstance(own, str) and theirs.endswith(".weight") and "norm" not in theirs
    }
    assert len(pairs) > 10
    for theirs, own in pairs.items():
        names = told([[own], [theirs]])
        assert names is None or names[0][own] == names[1][theirs], (own, theirs)
        assert names is not None or table not in ("flux_to_diffusers", "z_image_to_diffusers")


PAIRS = {
    "flux": [
        (
            "lora_unet_double_blocks_0_img_attn_proj",
            "diffusion_model.double_blocks.0.img_attn.proj",
        ),
        (
            "diffusion_model.double_blocks.0.img_attn.proj",
            "transformer.transformer_blocks.0.attn.to_out.0",
        ),
        ("lycoris_single_transformer_blocks_0_proj_out", "lora_unet_single_blocks_0_linear2"),
        (
            "lora_transformer_transformer_blocks_0_ff_net_2",
            "transformer.transformer_blocks.0.ff.net.2",
        ),
        (
            "lora_te1_text_model_encoder_layers_1_mlp_fc1",
            "text_encoder.text_model.encoder.layers.1.mlp.fc1",
        ),
    ],
    "zimage": [
        ("lora_unet_layers_0_attention_out", "diffusion_model.layers.0.attention.to_out.0"),
        ("transformer.layers.0.feed_forward.w1", "diffusion_model.layers.0.feed_forward.w1"),
    ],
    "sd15": [
        (
            "lora_te1_text_model_encoder_layers_1_mlp_fc1",
            "lora_te_text_model_encoder_layers_1_mlp_fc1",
        ),
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
        ),
        ("lycoris_down_blocks_0_attentions_0_proj_in", "diffusion_model.input_blocks.1.1.proj_in"),
    ],
}
CASES = [(name, pair) for name, pairs in PAIRS.items() for pair in pairs]


@pytest.fixture(scope="module")
def loaded(request: pytest.FixtureRequest, host: Any) -> Iterator[Loaded]:
    if request.param == "sd15":
        yield request.getfixturevalue("sd15")
        return
    with torch.inference_mode():
        model, clip, vae = families.load(request.param)
    yield Loaded(model=model, clip=clip, vae=vae, path=host.base)
    management.unload_all_models()


@pytest.mark.parametrize(("loaded", "pair"), CASES, indirect=["loaded"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_merged_bundle_changes_a_weight_as_its_two_files_do(
    loaded: Loaded, pair: tuple[str, str], turned: bool
):
    """As the host's own loader applies them one after the other."""
    keys = comfy.lora.model_lora_keys_unet(loaded.model.model, {})
    keys = comfy.lora.model_lora_keys_clip(loaded.clip.cond_stage_model, keys)
    weight = keys[pair[0]]
    assert weight == keys[pair[1]]
    patcher = loaded.model if weight.startswith(OWN) else loaded.clip.patcher
    base = patcher.model.state_dict()[weight].float()
    stems = reversed(pair) if turned else pair
    loras = [lora({s: base.shape}, rank=2, seed=seed) for seed, s in enumerate(stems)]
    wanted = base.clone()
    for one, strength in zip(loras, (1.0, -0.5), strict=True):
        patches = comfy.lora.load_lora(one, keys)
        wanted = comfy.lora.calculate_weight(
            [(strength, patches[weight], 1.0, None, None)], wanted, ""
        )
    bundles = [Bundle(family="", lora=one, embeddings={}) for one in loras]
    merged = merge_bundles(bundles, [1.0, -0.5], NameClash.ERROR)
    model, clip, _, notes = apply_bundle(loaded.model, loaded.clip, merged)
    patches = (model.patches | clip.patcher.patches)[weight]
    assert notes == [] and len(merged.lora) == 3
    torch.testing.assert_close(comfy.lora.calculate_weight(patches, base.clone(), weight), wanted)
