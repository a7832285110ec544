"""Files of other programs: what is read, what is refused, and what is said about the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pack.bundles import formats as package
from pack.bundles.bundle import Bundle
from pack.bundles.formats import Content, Format, Source, find_format, formats
from pack.bundles.formats.a1111 import split_key
from pack.bundles.load import load_bundle

KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def lora(context: int = 768, stem: str = KOHYA) -> dict[str, Tensor]:
    return {
        f"{stem}.lora_up.weight": torch.ones(320, 4),
        f"{stem}.lora_down.weight": torch.ones(4, context),
        f"{stem}.alpha": torch.tensor(4.0),
    }


def rows(width: int, count: int = 2, value: float = 0.5) -> Tensor:
    return torch.full((count, width), value)


def load(folder: Path, tensors: dict[str, Tensor], stem: str = "file") -> Bundle:
    path = folder / f"{stem}.safetensors"
    save_file(tensors, path)
    return load_bundle(path)


def source(tensors: dict[str, Tensor]) -> Source:
    return Source(tensors=tensors, metadata={}, stem="file")


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("bundle_emb.surtr.clip_l", ("surtr", "clip_l")),
        ("bundle_emb.v1.0.clip_l", ("v1.0", "clip_l")),
        ("bundle_emb.v1.0.string_to_param.*", ("v1.0", "string_to_param.*")),
        ("bundle_emb.<s0><s1>.clip_g", ("<s0><s1>", "clip_g")),
        ("bundle_emb.bundle_emb.x.clip_l", ("bundle_emb.x", "clip_l")),
    ],
)
def test_keys_are_cut_from_the_right(key: str, parts: tuple[str, str]) -> None:
    assert split_key(key) == parts


@pytest.mark.parametrize("key", ["bundle_emb.", "bundle_emb.x", "bundle_emb.x.", "bundle_emb..x"])
def test_keys_without_name_or_encoder_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be loaded: the key 'bundle_emb"):
        load(tmp_path, lora() | {key: rows(768)})


def test_a_bundle_of_sd15_is_read_whole(tmp_path: Path) -> None:
    found = load(tmp_path, lora() | {"bundle_emb.surtr.string_to_param.*": rows(768).half()})
    assert found.family == "sd15" and found.lora.keys() == lora().keys()
    assert torch.equal(found.embeddings["surtr"]["clip_l"], rows(768))
    assert found.embeddings["surtr"]["clip_l"].dtype == torch.float32
    assert found.entries == () and found.notes == ()


def test_a_bundle_of_sdxl_is_read_whole(tmp_path: Path) -> None:
    tensors = lora(2048, "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k")
    for name in ("a b", "v1.0"):
        tensors |= {f"bundle_emb.{name}.clip_l": rows(768), f"bundle_emb.{name}.clip_g": rows(1280)}
    found = load(tmp_path, tensors)
    assert found.family == "sdxl" and set(found.embeddings) == {"a b", "v1.0"}
    assert all(set(vectors) == {"clip_l", "clip_g"} for vectors in found.embeddings.values())


def test_a_single_vector_may_be_flat(tmp_path: Path) -> None:
    found = load(tmp_path, {"bundle_emb.x.clip_l": torch.ones(768)})
    assert found.embeddings["x"]["clip_l"].shape == (1, 768)


def test_a_plain_lora_has_no_embeddings(tmp_path: Path) -> None:
    found = load(tmp_path, lora())
    assert found.family == "sd15" and not found.embeddings and found.notes == ()
    assert found.lora.keys() == lora().keys()


@pytest.mark.parametrize(
    "key",
    [
        "diffusion_model.x.lora_A.weight",
        "transformer.x.lora_B.default.weight",
        "unet.x.processor.to_k_lora.down.weight",
        "unet.x.lora.up.weight",
        "text_encoder.x.lora_linear_layer.up.weight",
        "lora_unet_x.hada_w1_a",
        "lora_unet_x.lokr_w1",
        "lora_unet_x.oft_blocks",
        "lora_unet_x.diff",
    ],
)
def test_the_spellings_that_the_host_reads_are_loras(tmp_path: Path, key: str) -> None:
    found = load(tmp_path, {key: torch.ones(4, 4)})
    assert list(found.lora) == [key] and found.family == ""


@pytest.mark.parametrize(
    "tensors",
    [
        {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(4, 4)},
        {"some.words": torch.ones(1, 768)},
        {"cat": torch.ones(1, 33)},
        {"cat": torch.ones(1, 768), "dog": torch.ones(1, 768)},
        {"clip_l": torch.ones(1, 768), "cat": torch.ones(1, 768)},
        {},
    ],
    ids=["checkpoint", "dotted", "odd width", "two words", "mixed", "empty"],
)
def test_an_unknown_file_is_not_guessed_at(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"file\.safetensors cannot be loaded: this kind of file"):
        load(tmp_path, tensors)


def test_a_file_that_two_formats_know_is_not_guessed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = Format(
        title="a twin",
        recognizes=lambda source: True,
        read=lambda source: Content(lora={}, embeddings={}),
    )
    monkeypatch.setattr("pack.bundles.formats.formats", lambda: (*formats(), twin))
    assert find_format(source(lora())).title == "a twin"
    with pytest.raises(ValueError, match=r"could be a bundle \(bundle_emb\) or a twin"):
        find_format(source({"bundle_emb.x.clip_l": rows(768)}))


@pytest.mark.parametrize("key", ["emb_params", "emp_params", "string_to_param.*", "clip_l"])
def test_a_single_embedding_is_named_after_its_file(tmp_path: Path, key: str) -> None:
    found = load(tmp_path, {key: rows(768)}, "my cat")
    assert found.family == "sd15" and list(found.embeddings) == ["my cat"]
    assert torch.equal(found.embeddings["my cat"]["clip_l"], rows(768))


def test_a_single_embedding_of_sdxl_and_of_flux(tmp_path: Path) -> None:
    both = load(tmp_path, {"clip_l": rows(768), "clip_g": rows(1280)}, "xl")
    assert both.family == "sdxl" and set(both.embeddings["xl"]) == {"clip_l", "clip_g"}
    flux = load(tmp_path, {"clip_l": rows(768), "t5": rows(4096)}, "flux")
    assert flux.family == "" and set(flux.embeddings["flux"]) == {"clip_l", "t5xxl"}


NEW = """
from . import Content, Format, Source

def recognizes(source: Source) -> bool:
    return all(key.startswith("vector.") for key in source.tensors)

def read(source: Source) -> Content:
    found = {key[7:]: {"clip_l": tensor} for key, tensor in source.tensors.items()}
    return Content(lora={}, embeddings=found)

FORMAT = Format(title="vectors", recognizes=recognizes, read=read)
"""


def test_a_new_file_in_the_folder_is_all_that_a_format_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new_format.py").write_text(NEW)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.setattr(package, "formats", formats.__wrapped__)
    assert list(load(tmp_path, {"vector.cat": rows(768)}).embeddings) == ["cat"]
