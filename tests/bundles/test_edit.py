"""Bundles made of bundles: what is packed, renamed and merged is what went in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pack.bundles.bundle import Bundle, Entry
from pack.bundles.edit import NameClash, merge_bundles, pack, rename, warnings_for_name
from pack.bundles.layers.generic import to_kohya

LAYER = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k"
OTHER = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"
NOISE = torch.Generator().manual_seed(5)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=NOISE)


def layer(name: str, rank: int, alpha: float | None) -> dict[str, Tensor]:
    made = {f"{name}.lora_up.weight": draw(64, rank), f"{name}.lora_down.weight": draw(rank, 48)}
    return made if alpha is None else made | {f"{name}.alpha": torch.tensor(alpha)}


def bundle(*names: str, lora: dict[str, Tensor] | None = None, family: str = "sd15") -> Bundle:
    return Bundle(
        family=family,
        lora=lora or {},
        embeddings={name: {"clip_l": draw(2, 768)} for name in names},
        entries=tuple(Entry(name=name, initial=f"a {name}") for name in names),
    )


def delta(lora: dict[str, Tensor], name: str) -> Tensor:
    """alpha / rank * up @ down in fp64; zero where the layer is not there."""
    if f"{name}.lora_up.weight" not in lora:
        return torch.zeros(64, 48, dtype=torch.float64)
    up, down = lora[f"{name}.lora_up.weight"], lora[f"{name}.lora_down.weight"]
    scale = lora.get(f"{name}.alpha", torch.tensor(float(len(down)))).item() / len(down)
    return scale * up.double() @ down.double()


def test_packing_adds_the_names_and_touches_no_tensor() -> None:
    lora, first, second = bundle("old", lora=layer(LAYER, 4, 2.0)), bundle("cat"), bundle("dog")
    made = pack(lora, [first, second])
    assert made.names == ["old", "cat", "dog"] and made.family == "sd15"
    assert all(made.lora[key] is lora.lora[key] for key in lora.lora)
    assert made.embeddings["dog"]["clip_l"] is second.embeddings["dog"]["clip_l"]
    assert [entry.initial for entry in made.entries] == ["a old", "a cat", "a dog"]


@pytest.mark.parametrize(
    ("lora", "parts", "sentence"),
    [
        (None, [], "nothing to pack"),
        (bundle("cat"), [bundle("cat")], 'hold the name "cat": rename one of them'),
        (None, [bundle("cat", lora=layer(LAYER, 2, 1.0))], r"is a LoRA \(cat\): merge it"),
        (
            bundle("a"),
            [Bundle(family="", lora={}, embeddings={"b": {"clip_l": draw(1, 1024)}})],
            "made for different models",
        ),
    ],
)
def test_what_cannot_be_packed_is_said(
    lora: Bundle | None, parts: list[Bundle], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        pack(lora, parts)


def test_renaming_changes_the_words_alone() -> None:
    whole = replace(bundle("cat", "dog"), outputs={"late": {"clip_l": draw(1, 768)}})
    made = rename(whole, {"cat": "tom", "late": "early"})
    assert made.names == ["tom", "dog", "early"]
    assert made.embeddings["tom"] is whole.embeddings["cat"]
    assert made.outputs["early"] is whole.outputs["late"]
    assert [entry.name for entry in made.entries] == ["tom", "dog"]
    assert rename(bundle("cat", "dog"), {"cat": "dog", "dog": "cat"}).names == ["dog", "cat"]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({"mouse": "x"}, 'no name "mouse": it has cat, dog'),
        ({"cat": "dog"}, 'Two names become "dog"'),
        ({"cat": "v1.0"}, "holds a dot"),
        ({"cat": ""}, "is empty"),
        ({"cat": "12"}, "is a number"),
        ({"cat": "a\nb"}, "control character"),
        ({"cat": "bundle_emb"}, "marks the keys"),
    ],
)
def test_bad_names_are_refused(names: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        rename(bundle("cat", "dog"), names)


def test_names_that_others_misread_are_warned_of() -> None:
    assert "holds a blank" in warnings_for_name("my Cat")[0]
    assert "holds < >" in warnings_for_name("<s0>")[0]
    assert "as an ordinary word" in warnings_for_name("cat")[0]
    assert "begins with" in warnings_for_name("Tom", ["Tom", "Tommy"])[0]
    assert warnings_for_name("Surtr7") == []


WEIGHTS = [0.75, -0.5]


def pair() -> list[Bundle]:
    """Two bundles with one layer in common, of other ranks, alphas and spellings."""
    first = layer(LAYER, 4, 2.0) | layer(OTHER, 3, 3.0)
    second = layer(LAYER, 5, None)
    return [bundle("cat", lora=first), bundle("dog", lora=to_kohya(second, "sd15"))]


def whole(bundles: list[Bundle], name: str) -> Tensor:
    from pack.bundles.layers.generic import to_generic

    return sum(
        weight * delta(to_generic(one.lora, "sd15"), name)
        for one, weight in zip(bundles, WEIGHTS, strict=True)
    )


@pytest.mark.parametrize("name", [LAYER, OTHER])
def test_merging_is_the_weighted_sum_exactly(name: str) -> None:
    bundles = pair()
    made = merge_bundles(bundles, WEIGHTS, NameClash.ERROR)
    torch.testing.assert_close(
        delta(dict(made.lora), name), whole(bundles, name), rtol=1e-5, atol=1e-5
    )
    assert made.lora[f"{name}.lora_down.weight"].shape[0] == (9 if name == LAYER else 3)
    assert made.names == ["cat", "dog"] and made.family == "sd15"


def test_merging_with_a_rank_is_the_best_of_that_rank() -> None:
    bundles = pair()
    made = merge_bundles(bundles, WEIGHTS, NameClash.ERROR, rank=2)
    assert made.lora[f"{LAYER}.lora_down.weight"].shape[0] == 2
    exact = whole(bundles, LAYER)
    u, values, vt = torch.linalg.svd(exact)
    best = u[:, :2] * values[:2] @ vt[:2]
    torch.testing.assert_close(delta(dict(made.lora), LAYER), best, rtol=1e-4, atol=1e-4)


def test_a_layer_is_never_given_more_rank_than_it_has() -> None:
    bundles = [bundle(lora=layer(LAYER, 40, 40.0)) for _ in range(2)]
    made = merge_bundles(bundles, WEIGHTS, NameClash.ERROR)
    assert made.lora[f"{LAYER}.lora_down.weight"].shape[0] <= 48
    torch.testing.assert_close(
        delta(dict(made.lora), LAYER), whole(bundles, LAYER), rtol=1e-4, atol=1e-4
    )


def test_names_in_both_follow_the_rule() -> None:
    bundles = [bundle("cat"), bundle("cat", "dog")]
    with pytest.raises(ValueError, match='hold the name "cat"'):
        merge_bundles(bundles, [1, 1], NameClash.ERROR)
    kept = merge_bundles(bundles, [1, 1], NameClash.KEEP)
    assert kept.names == ["cat", "dog"]
    assert kept.embeddings["cat"] is bundles[0].embeddings["cat"]
    numbered = merge_bundles(bundles, [1, 1], NameClash.NUMBER)
    assert numbered.names == ["cat", "cat_2", "dog"]
    assert numbered.embeddings["cat_2"] is bundles[1].embeddings["cat"]
    assert 'The later "cat" is called "cat_2".' in numbered.notes


@pytest.mark.parametrize(
    ("bundles", "weights", "sentence"),
    [
        ([bundle("a")], [1, 2], "1 bundles and 2 weights"),
        ([bundle("a"), bundle("b", family="sdxl")], [1, 1], "made for sd15 and sdxl"),
        ([bundle(lora={"x.hada_w1_a": draw(2, 2)})], [1], "x.hada_w1_a does not belong to a pair"),
        (
            [bundle(lora=layer(LAYER, 2, 1.0) | {f"{LAYER}.dora_scale": draw(64, 1)})],
            [1],
            "dora_scale does not belong to a pair",
        ),
    ],
)
def test_what_cannot_be_merged_is_said(
    bundles: list[Bundle], weights: list[float], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        merge_bundles(bundles, weights, NameClash.ERROR)


def test_an_alpha_without_its_layer_is_left_out_by_name() -> None:
    lone = layer(LAYER, 2, 1.0) | {f"{OTHER}.alpha": torch.tensor(1.0)}
    made = merge_bundles([bundle(lora=lone)] * 2, [0.5, 0.5], NameClash.ERROR)
    torch.testing.assert_close(delta(dict(made.lora), LAYER), delta(lone, LAYER))
    assert f"1 alphas without a layer are left out: {OTHER}.alpha." in made.notes
    with pytest.raises(ValueError, match="does not belong to a pair"):
        merge_bundles([bundle(lora=lone | {f"{OTHER}.diff": draw(2)})], [1], NameClash.ERROR)


def test_a_layer_of_rank_0_adds_nothing_to_a_merge() -> None:
    full, none = layer(LAYER, 2, 1.0), layer(OTHER, 0, 1.0) | layer(LAYER, 0, 1.0)
    made = merge_bundles([bundle(lora=full), bundle(lora=none)], [1, 1], NameClash.ERROR)
    torch.testing.assert_close(delta(dict(made.lora), LAYER), delta(full, LAYER))
    assert not any(key.startswith(OTHER) for key in made.lora)
    assert made.notes[-1].startswith("2 layers of rank 0 change nothing and are left out: ")


def test_the_phrases_of_merged_files_are_kept() -> None:
    phrase = "modelspec.trigger_phrase"
    bundles = [
        replace(bundle(lora=layer(LAYER, 2, None)), header={phrase: text, "ss_network_dim": "2"})
        for text in ("ohwx", "sks", "ohwx")
    ]
    assert merge_bundles(bundles, [1, 1, 1], NameClash.ERROR).header == {phrase: "ohwx, sks"}
