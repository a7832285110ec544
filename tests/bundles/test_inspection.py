"""What Inspect Bundle says of a bundle, against numbers known beforehand."""

from __future__ import annotations

from dataclasses import replace

import torch
from PIL import Image

from pack.bundles.bundle import Bundle, Entry
from pack.bundles.inspection import Vocabulary, as_text, inspect_bundle
from pack.bundles.table_picture import THUMBNAIL, data_uri, from_uri, render


def bundle() -> Bundle:
    rows = torch.zeros(2, 4)
    rows[0, 1], rows[1, 2] = 3.0, 4.0
    lora = {
        "lora_unet_x.lora_up.weight": torch.ones(8, 4).half(),
        "lora_unet_x.lora_down.weight": torch.ones(4, 8).half(),
        "lora_unet_x.alpha": torch.tensor(2.0).half(),
        "lora_te_y.lora_down.weight": torch.ones(2, 8).half(),
    }
    return Bundle(
        family="sd15",
        lora=lora,
        embeddings={
            "cat": {"clip_l": rows},
            "twin": {"clip_l": rows.clone()},
            "bad": {"clip_l": torch.full((1, 4), float("nan"))},
            "none": {"clip_l": torch.full((1, 4), 1e-5)},
        },
        outputs={"late": {"clip_l": rows + 1}},
        entries=(Entry(name="cat", initial="a cat", placeholder="TOK"),),
        recipe={"train": {"steps": 300, "rates": [1, 2]}, "resolution": 512},
        source="b.safetensors, SHA-256 abc",
    )


def vocabulary() -> dict[str, Vocabulary]:
    """Four words, the axes, each of norm 2."""
    words = ["red", "cat", "dog", "sky"]
    return {"clip_l": Vocabulary(table=2 * torch.eye(4), word=words.__getitem__)}


def test_the_table_has_norms_nearest_words_and_what_is_odd() -> None:
    found = {(row.name, row.kind): row for row in inspect_bundle(bundle(), vocabulary()).rows}
    cat = found["cat", "input"]
    assert cat.norms == (3.0, 3.5, 4.0) and cat.relative == 1.75
    assert (cat.vectors, cat.width) == (2, 4) and cat.nearest == "cat 1.00 dog 1.00"
    assert cat.remarks == "" and found["twin", "input"].remarks == "the same as cat.clip_l"
    assert found["bad", "input"].remarks == "4 values are NaN or infinite"
    assert found["bad", "input"].nearest == ""
    assert found["none", "input"].remarks == "near zero"
    assert found["late", "output"].nearest == "" and found["late", "output"].relative is None


def test_without_a_vocabulary_nothing_is_compared() -> None:
    rows = inspect_bundle(bundle()).rows
    assert all(row.relative is None and row.nearest == "" for row in rows)


def test_the_facts_name_lora_triggers_recipe_and_file() -> None:
    text = as_text(inspect_bundle(bundle(), vocabulary()))
    for part in (
        "family: sd15",
        "LoRA: 2 layers in two factors, 1 of them in the text encoders, rank 2, 4, alpha 2, ",
        "triggers: embedding:cat, embedding:twin, embedding:bad, embedding:none, embedding:late",
        "cat: from 'a cat', captions said 'TOK'",
        "train.steps: 300",
        "resolution: 512",
        "file: b.safetensors, SHA-256 abc",
        "1.75 x",
    ):
        assert part in text
    head, *rows = [
        line for line in text.splitlines() if line.startswith(("name ", "cat ", "twin "))
    ]
    assert {row.index("clip_l") for row in rows} == {head.index("encoder")}


def test_the_picture_shows_the_thumbnails() -> None:
    red = Image.new("RGB", (900, 300), (255, 0, 0))
    entry = Entry(name="cat", thumbnail=data_uri(red))
    pictured = replace(bundle(), entries=(entry,))
    found = inspect_bundle(pictured)
    page, plain = render(found, pictured), render(inspect_bundle(bundle()), bundle())
    assert page.height > plain.height + 80
    reds = sum(pixel[0] > 240 and pixel[1] < 20 for pixel in page.getdata())
    assert reds > 0.9 * THUMBNAIL * (THUMBNAIL // 3)


def test_a_thumbnail_is_small_and_comes_back() -> None:
    uri = data_uri(Image.new("RGBA", (1000, 500), (0, 0, 255, 255)))
    back = from_uri(uri)
    assert back is not None and back.size == (256, 128) and len(uri) < 10_000
    for junk in ("", "data:image/jpeg;base64,", "data:image/jpeg;base64,AAAA", "x,é"):
        assert from_uri(junk) is None


def test_layers_of_text_encoders_are_counted_by_what_they_are() -> None:
    text = (
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q",
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1",
        "lora_prior_te_text_model_encoder_layers_0_mlp_fc1",
    )
    others = (
        "transformer.transformer_blocks.0.ff_context.net.2",
        "transformer.context_embedder",
        "transformer.time_text_embed.text_embedder.linear_1",
        "diffusion_model.double_blocks.0.txt_attn.qkv",
    )
    lora = {f"{stem}.lora_down.weight": torch.ones(2, 4) for stem in (*text, *others)}
    found = as_text(inspect_bundle(Bundle(family="", lora=lora, embeddings={})))
    assert "9 layers in two factors, 5 of them in the text encoders" in found
