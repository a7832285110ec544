"""The family of a file is judged by its tensors alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundles.formats.test_formats import load, lora, rows
from torch import Tensor


@pytest.mark.parametrize(
    ("tensors", "family"),
    [
        (lora(768), "sd15"),
        (lora(1024), "sd2"),
        (lora(2048), "sdxl"),
        (lora(2048, "transformer_blocks.0.attn2.to_k"), ""),
        (lora(768, "lora_unet_down_blocks_0_resnets_0_conv1"), ""),
        (lora(2048, "diffusion_model.output_blocks.3.1.transformer_blocks.0.attn2.to_v"), "sdxl"),
        ({"bundle_emb.x.clip_l": rows(768)} | lora(3072, "transformer.x"), ""),
        ({"bundle_emb.x.clip_h": rows(1024)}, "sd2"),
    ],
)
def test_the_family_is_told_by_the_tensors_or_not_at_all(
    tmp_path: Path, tensors: dict[str, Tensor], family: str
) -> None:
    assert load(tmp_path, tensors).family == family
