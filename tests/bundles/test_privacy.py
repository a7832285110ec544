"""What each choice of metadata leaves in a bundle that says everything."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from factories import lora, random_vectors
from pack.bundles.__main__ import main
from pack.bundles.bundle import Bundle, Entry
from pack.bundles.files.safetensors import read_header
from pack.bundles.load import load_bundle
from pack.bundles.metadata import INDEX
from pack.bundles.privacy import Metadata, named_parts, without_private
from pack.bundles.save import Container, save_bundle
from pack.bundles.table_picture import data_uri, from_uri

SECRET = "maria"
THUMBNAIL = data_uri(Image.new("RGB", (8, 8), "red"))
HIDDEN = {"name": SECRET, "fingerprint": f"sha {SECRET}"}
FOREIGN = {
    "ss_dataset_dirs": json.dumps({f"10_{SECRET}": {"img_count": 2}}),
    "ss_tag_frequency": json.dumps({SECRET: {"1girl": 2}}),
    "ss_sd_model_name": f"{SECRET}.safetensors",
    "ss_training_comment": SECRET,
    "ss_new_field_of_tomorrow": SECRET,
    "ot_config": SECRET,
    "modelspec.merged_from": SECRET,
    "modelspec.description": f"see /home/{SECRET}/notes",
}
PLAIN = {"ss_network_module": "networks.lora", "ss_learning_rate": "1e-4"}
PLAIN |= {"ss_network_args": json.dumps({"algo": "lokr", "url": "https://a.b/c"})}
PLAIN |= {"modelspec.author": "an artist", "modelspec.prediction_type": "v"}
RECIPE = {
    "train": {"steps": 3, "seed": 1},
    "concepts": [{"placeholder": "TOK", "initial": "dog"}],
    "adapter": {"kind": "LoraConfig", "patterns": r"attn2\.to_k$ = 32 : 16"},
    "resolution": 64,
    "base_model": "0123456789abcdef",
}


def whole() -> Bundle:
    counted = {"pictures": 2}
    events = [{"step": 1, "what": "continued", "from": SECRET, "changed": {"train.steps": [1, 2]}}]
    told = [{**events[0], "changed": {**events[0]["changed"], "dataset.name": [SECRET, "x"]}}]
    return Bundle(
        family="sd15",
        lora=lora({"diffusion_model.output_blocks.1.1.proj_in": (4, 4)}),
        embeddings={"tok": random_vectors("sd15", 1)},
        entries=(Entry(name="tok", initial="dog", placeholder="TOK", thumbnail=THUMBNAIL),),
        recipe={
            **RECIPE,
            "train": {**RECIPE["train"], "resumed": [f"C:\\Users\\{SECRET}"]},
            "dataset": {**counted, **HIDDEN},
            "class_dataset": None,
            "validation": {"every": 5, "dataset": {**counted, **HIDDEN}},
            "continues": {"run": SECRET, "step": 1},
            "events": told,
            "somebody's": SECRET,
        },
        workflow=json.dumps({"nodes": [SECRET]}),
        header={**FOREIGN, **PLAIN},
        source=f"{SECRET}.safetensors, SHA-256 0",
        thumbnail=THUMBNAIL,
    )


@pytest.mark.parametrize("container", [Container.A1111, Container.LOOSE, Container.HEADER])
@pytest.mark.parametrize("metadata", list(Metadata))
def test_what_names_somebody_is_in_the_file_only_with_everything(
    tmp_path: Path, metadata: Metadata, container: Container
):
    path = tmp_path / "b.safetensors"
    for file in save_bundle(without_private(whole(), metadata), path, container, torch.float32):
        assert metadata is Metadata.EVERYTHING or SECRET.encode() not in file.read_bytes()
    header = read_header(path)
    assert (SECRET in header.get("workflow", "")) == (metadata is Metadata.EVERYTHING)
    assert ("modelspec.date" in header) == (metadata is not Metadata.NAMES)


def test_the_recipe_keeps_settings_and_counts():
    kept = without_private(whole(), Metadata.RECIPE)
    assert kept.recipe == {
        **RECIPE,
        "train": {"steps": 3, "seed": 1, "resumed": [""]},
        "dataset": {"pictures": 2},
        "class_dataset": None,
        "validation": {"every": 5, "dataset": {"pictures": 2}},
        "continues": {"step": 1},
        "events": [{"step": 1, "what": "continued", "changed": {"train.steps": [1, 2]}}],
    }
    assert kept.header == PLAIN and kept.entries == whole().entries
    restored = {**kept.recipe, **named_parts(whole().recipe)}
    assert restored["dataset"] == whole().recipe["dataset"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_thumbnail_keeps_its_pixels_and_no_text(kind: str):
    image, file, texts = Image.new("RGB", (8, 8), "red"), io.BytesIO(), PngInfo()
    texts.add_text("workflow", SECRET)
    exif = image.getexif()
    exif[0x9C9D] = SECRET.encode()
    more = {"pnginfo": texts} if kind == "PNG" else {"exif": exif, "comment": SECRET}
    image.save(file, kind, **more)
    uri = f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
    entry = Entry(name="tok", thumbnail=uri)
    kept = without_private(replace(whole(), thumbnail=uri, entries=(entry,)), Metadata.RECIPE)
    for made in (kept.thumbnail, kept.entries[0].thumbnail):
        assert SECRET.encode() not in base64.b64decode(made.partition(",")[2])
        seen = from_uri(made)
        assert seen is not None and seen.convert("RGB").getpixel((4, 4))[0] > 240


def test_what_loading_needs_is_in_every_file(tmp_path: Path):
    path = tmp_path / "b.safetensors"
    save_bundle(without_private(whole(), Metadata.NAMES), path, Container.A1111, torch.float32)
    found = load_bundle(path)
    assert found.entries == (Entry(name="tok", initial="dog", placeholder="TOK"),)
    assert found.family == "sd15" and not found.recipe and not found.thumbnail
    assert found.lora.keys() and found.header["modelspec.prediction_type"] == "v"
    assert json.loads(read_header(path)[INDEX])["version"] == 1


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        *((text, True) for text in ("/home/x", "~/x", "in /mnt/x", "C:\\x", "d:/x", "file:///x")),
        *((text, True) for text in ("\\\\host\\share", '{"dir": "/x"}', '["C:/x"]')),
        *((text, False) for text in ("https://a.b/c", "1 / 2", "a/b", "to_k$ = 32 : 16", "\\d+")),
        *((text, False) for text in ("stable-diffusion-v1/lora", "cat: /", "")),
    ],
)
def test_an_absolute_path_is_told_from_other_texts(text: str, is_path: bool):
    kept = without_private(replace(whole(), recipe={"train": {"x": text}}), Metadata.RECIPE)
    assert kept.recipe == {"train": {"x": "" if is_path else text}}


def test_a_recipe_of_brackets_is_cut_off():
    deep: object = "x"
    for _ in range(900):
        deep = [deep]
    kept = without_private(replace(whole(), recipe={"train": deep}), Metadata.RECIPE)
    assert len(json.dumps(kept.recipe)) < 100


def test_the_command_line_has_the_same_default(tmp_path: Path):
    path, out = tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    save_bundle(whole(), path, Container.A1111, torch.float32)
    assert main(["convert", str(path), str(out)]) == 0
    assert SECRET.encode() not in out.read_bytes() and load_bundle(out).recipe["resolution"] == 64
    assert main(["convert", str(path), str(out.with_stem("d")), "--metadata", "everything"]) == 0
    assert SECRET.encode() in out.with_stem("d").read_bytes()
