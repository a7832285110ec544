"""Vectors find their text encoder by width and key, and vectors of no use are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bundles.formats.test_formats import load, lora, rows
from torch import Tensor

from pack.bundles.encoders import encoder_of


@pytest.mark.parametrize(
    ("key", "width", "encoder"),
    [
        ("string_to_param.*", 768, "clip_l"),
        ("string_to_param.*", 1024, "clip_h"),
        ("emb_params", 768, "clip_l"),
        ("emp_params", 768, "clip_l"),
        ("emb_params", 1280, "clip_g"),
        ("clip_l", 768, "clip_l"),
        ("clip_l", 1024, "clip_h"),
        ("clip_g", 768, "clip_l"),
        ("clip_g", 1280, "clip_g"),
        ("t5", 4096, "t5xxl"),
        ("t5xxl", 1024, "t5xxl"),
        ("gemma", 2304, "gemma2_2b"),
        ("llama", 4096, "llama"),
        ("qwen3_06b", 1024, "qwen3_06b"),
        ("clip_l", 32, "clip_l"),
    ],
)
def test_the_width_decides_first_and_the_key_second(key: str, width: int, encoder: str) -> None:
    assert encoder_of(key, width) == encoder


def test_output_embeddings_are_kept_apart_loudly(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        lora()
        | {"bundle_emb.out.clip_l": rows(768, value=0.0), "bundle_emb.out.clip_l_out": rows(768)}
        | {"bundle_emb.in.clip_l": rows(768)},
    )
    assert list(found.embeddings) == ["in"] and list(found.outputs) == ["out"]
    assert torch.equal(found.outputs["out"]["clip_l"], rows(768))
    (note,) = found.notes
    assert "'out' is an output embedding for clip_l" in note
    assert "use Encode with Output Embeddings" in note


def test_of_a_mixed_embedding_only_the_input_half_is_read(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        {
            "bundle_emb.x.clip_l": rows(768),
            "bundle_emb.x.t5": rows(4096, value=0.0),
            "bundle_emb.x.t5_out": rows(4096),
        },
    )
    assert list(found.embeddings["x"]) == ["clip_l"] and list(found.outputs["x"]) == ["t5xxl"]
    assert "output embedding for t5xxl" in found.notes[0]


def test_zeros_are_pointed_out(tmp_path: Path) -> None:
    found = load(tmp_path, {"bundle_emb.x.clip_l": rows(768, value=0.0)})
    assert found.notes == ("The embedding 'x' holds only zeros for clip_l.",)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_vectors_that_are_not_numbers_are_refused(tmp_path: Path, value: float) -> None:
    bad = rows(768)
    bad[1, 700] = value
    with pytest.raises(ValueError, match=r"cannot be loaded: the embedding 'x' holds NaN"):
        load(tmp_path, {"bundle_emb.x.clip_l": bad})


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"bundle_emb.x.clip_l": torch.ones(2, 3, 768)}, "holds no vectors under 'clip_l'"),
        ({"bundle_emb.x.clip_l": torch.ones(0, 768)}, "holds no vectors under 'clip_l'"),
        ({"bundle_emb.x.clip_l": torch.ones(2, 768).long()}, "holds no vectors under 'clip_l'"),
        ({"bundle_emb.x.emb_params": rows(2048)}, "width 2048 fit no known text encoder"),
        (
            {"bundle_emb.x.clip_l": rows(768), "bundle_emb.x.clip_g": rows(768)},
            "'x' holds vectors for clip_l twice",
        ),
        (
            {"bundle_emb.x.clip_l": rows(768), "bundle_emb.y.clip_l": rows(1024)},
            r"'y' \(Stable Diffusion 2\) and 'x' are made for different models",
        ),
        (
            {"bundle_emb.x.llama": rows(4096), "bundle_emb.y.llama": rows(3072)},
            "'x' and 'y' are made for different models",
        ),
    ],
)
def test_vectors_of_no_use_are_refused(
    tmp_path: Path, tensors: dict[str, Tensor], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        load(tmp_path, tensors)
