"""Florence-2 folders in the format of the first release, which needed code from elsewhere.

Since 4.56 transformers itself knows Florence-2, under other names. Configuration and weights are
translated while they load; the folder is not changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .damage import WEIGHTS

IMAGE_TOKEN = "<image>"
RENAMES = (
    (r"^vision_tower\.convs\.(\d+)\.proj\.", r"model.vision_tower.convs.\1.conv."),
    (r"^vision_tower\.", "model.vision_tower."),
    (r"\.(conv[12])\.fn\.dw\.", r".\1."),
    (r"\.(window_attn|channel_attn)\.norm\.", r".norm1."),
    (r"\.(window_attn|channel_attn)\.fn\.", r".\1."),
    (r"\.ffn\.norm\.", r".norm2."),
    (r"\.ffn\.fn\.net\.", r".ffn."),
    (r"^image_proj_norm\.", "model.multi_modal_projector.image_proj_norm."),
    (r"^image_pos_embed\.", "model.multi_modal_projector.image_position_embed."),
    (r"^visual_temporal_embed\.", "model.multi_modal_projector.visual_temporal_embed."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^language_model\.lm_head\.", "lm_head."),
)
PROJECTION = "model.multi_modal_projector.image_projection.weight"


def is_legacy(config: Mapping[str, Any]) -> bool:
    """Whether this is a configuration of the first release."""
    text = config.get("text_config") or {}
    return config.get("model_type") == "florence2" and text.get("model_type") in (
        "florence2_language",
        "",
    )


def load_legacy(folder: Path, old: Mapping[str, Any], dtype: torch.dtype) -> tuple[Any, Any]:
    """Processor and model, translated; ValueError if a weight is missing or unexpected.

    `old` is the folder's configuration without what could name code.
    """
    from transformers import AutoImageProcessor, AutoTokenizer
    from transformers.models.florence2 import (
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    options = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(
        folder, extra_special_tokens={"image_token": IMAGE_TOKEN}, tokenizer_type="bart", **options
    )
    image_token = int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    weights = translated(load_file(folder / WEIGHTS), image_token)
    rows = weights["model.language_model.shared.weight"].shape[0]
    config = Florence2Config(**translated_config(old, image_token, rows))
    # None leaves the choice to the model, whatever the folder says.
    config._attn_implementation = None
    model: Any = Florence2ForConditionalGeneration(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    # These are tied to the shared table.
    lost = [name for name in missing if "embed_tokens" not in name and "lm_head" not in name]
    if lost or unexpected:
        raise ValueError(f"its weights do not fit: {', '.join([*lost, *unexpected][:3])}")
    model.tie_weights()
    images = AutoImageProcessor.from_pretrained(folder, **options)
    images.image_seq_length = getattr(images, "image_seq_length", None) or 577
    return Florence2Processor(images, tokenizer), model.to(dtype)


def translated_config(old: Mapping[str, Any], image_token: int, rows: int) -> dict[str, Any]:
    """The old configuration under the new names."""
    text = {k: v for k, v in old["text_config"].items() if k != "architectures"}
    text |= {"model_type": "bart", "vocab_size": rows}
    images = old["vision_config"]
    vision = {
        "embed_dim": images.get("dim_embed", [128, 256, 512, 1024]),
        "depths": images.get("depths", [1, 1, 9, 1]),
        "num_heads": images.get("num_heads", [4, 8, 16, 32]),
        "num_groups": images.get("num_groups", [4, 8, 16, 32]),
        "window_size": images.get("window_size", 12),
        "projection_dim": old.get("projection_dim", images.get("projection_dim", 1024)),
        "drop_path_rate": 0.0,
        "patch_size": images.get("patch_size", [7, 3, 3, 3]),
        "patch_stride": images.get("patch_stride", [4, 2, 2, 2]),
        "patch_padding": images.get("patch_padding", [3, 1, 1, 1]),
        "patch_prenorm": images.get("patch_prenorm", [False, True, True, True]),
        "qkv_bias": images.get("qkv_bias", True),
        "max_temporal_embeddings": (images.get("visual_temporal_embedding") or {}).get(
            "max_temporal_embeddings", 100
        ),
        "max_position_embeddings": (images.get("image_pos_embed") or {}).get(
            "max_pos_embeddings", 50
        ),
    }
    return {"text_config": text, "vision_config": vision, "image_token_id": image_token}


def translated(weights: dict[str, Tensor], image_token: int) -> dict[str, Tensor]:
    """The old weights under their new names, with a row for the image token."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name == "image_projection":
            renamed[PROJECTION] = tensor.T.contiguous()
        elif not name.endswith("final_logits_bias"):
            renamed[_renamed(name)] = tensor
    for name in [n for n in renamed if n.endswith(("shared.weight", "embed_tokens.weight"))]:
        renamed[name] = _longer(renamed[name], image_token)
    if "lm_head.weight" in renamed:
        renamed["lm_head.weight"] = _longer(renamed["lm_head.weight"], image_token)
    return renamed


def _renamed(name: str) -> str:
    for pattern, new in RENAMES:
        name = re.sub(pattern, new, name)
    return name


def _longer(table: Tensor, token: int) -> Tensor:
    missing = token + 1 - table.shape[0]
    return table if missing <= 0 else torch.cat([table, table.new_zeros(missing, table.shape[1])])
