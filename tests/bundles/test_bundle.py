"""Names that bundles refuse, and what a bundle checks of its vectors."""

from __future__ import annotations

import pytest
import torch

from pack.bundles.bundle import Bundle, check_name


@pytest.mark.parametrize(
    "name", ["surtr", "my cat", "<s0>", "Łódź", "猫", "cat2", "2cats", "👩‍🎨", "a:b", "x(1)"]
)
def test_usual_names_pass(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        ("v1.0", "dot"),
        (".", "dot"),
        ("bundle_emb", "bundle_emb"),
        ("my_Bundle_Emb", "bundle_emb"),
        ("a\nb", "control"),
        ("a\x00b", "control"),
        ("a\u2028b", "control"),
        ("a\ud800", "control"),
        (" cat", "blank"),
        ("cat\t", "blank"),
        ("cat\u00a0", "blank"),
        ("123", "number"),
        ("nan", "number"),
        ("inf", "number"),
        ("-Infinity", "number"),
        ("1e5", "number"),
        ("1_000", "number"),
        ("\uff11\uff12", "number"),
    ],
)
def test_names_that_a_reader_would_misread_are_refused(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_name(name)


def test_two_widths_of_one_encoder_are_refused() -> None:
    embeddings = {"a": {"clip_l": torch.ones(1, 768)}, "b": {"clip_l": torch.ones(1, 640)}}
    with pytest.raises(ValueError, match="'a' and 'b' are made for different models"):
        Bundle(family="sd15", lora={}, embeddings=embeddings)


@pytest.mark.parametrize(
    "rows", [torch.ones(768), torch.ones(0, 768), torch.ones(2, 0), torch.ones(2, 768).int()]
)
def test_what_are_no_vectors_is_refused(rows: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="'a' holds a"):
        Bundle(family="", lora={}, embeddings={"a": {"clip_l": rows}})
