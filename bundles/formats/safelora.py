"""cloneofsimo/lora's safeloras: layers by number, and each token's vector under its own name.

The number counts the Linear modules of the UNet in the order of torch's `named_modules`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from . import Content, Format, Source

FLAG = "<embed>"
_LAYER = re.compile(r"(unet|text_encoder):(\d+):(up|down)")
_ATTENTION, _GATED = ("to_q", "to_k", "to_v", "to_out_0"), "ff_net_0_proj"
# Transformers built before 2023 register the feed-forward part between both attentions.
_OLD = [*(f"attn1_{m}" for m in _ATTENTION), _GATED, *(f"attn2_{m}" for m in _ATTENTION)]
_NEW = [*(f"attn1_{m}" for m in _ATTENTION), *(f"attn2_{m}" for m in _ATTENTION), _GATED]
_TEXT = ("k_proj", "v_proj", "q_proj", "out_proj")
_UNET_CLASSES = ({"CrossAttention", "Attention", "GEGLU"}, {"CLIPAttention"})

Pair = tuple[Tensor, Tensor]


def _recognizes(source: Source) -> bool:
    tokens = {key for key, value in source.metadata.items() if value == FLAG}
    keys = source.tensors.keys()
    return bool(keys) and all(_LAYER.fullmatch(key) or key in tokens for key in keys)


def _read(source: Source) -> Content:
    _check_targets(source.metadata)
    layers: dict[str, Pair] = {}
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_")):
        pairs = _pairs(source, part)
        if pairs:
            names = _unet_names(pairs) if part == "unet" else _text_names(pairs)
            layers |= {prefix + name: pair for name, pair in zip(names, pairs, strict=True)}
    tokens = [key for key, value in source.metadata.items() if value == FLAG]
    vectors = {t: {"emb_params": source.tensors[t]} for t in tokens if t in source.tensors}
    return Content(lora=dict(_tensors(layers)), embeddings=vectors)


def _tensors(layers: dict[str, Pair]) -> Iterator[tuple[str, Tensor]]:
    """Its layers add up @ down unscaled, which is alpha = rank."""
    for name, (up, down) in layers.items():
        yield f"{name}.lora_up.weight", up
        yield f"{name}.lora_down.weight", down
        yield f"{name}.alpha", torch.tensor(float(down.shape[0]))


def _pairs(source: Source, part: str) -> list[Pair]:
    tensors = source.tensors
    count = len([key for key in tensors if key.startswith(f"{part}:")])
    try:
        pairs = [
            (tensors[f"{part}:{number}:up"], tensors[f"{part}:{number}:down"])
            for number in range(count // 2)
        ]
    except KeyError as missing:
        raise ValueError(f"the layer {missing} of the safelora is missing.") from None
    if any(up.ndim != 2 or down.ndim != 2 for up, down in pairs):
        raise ValueError("the safelora holds convolutions, and nothing says which ones.")
    return pairs


def _check_targets(metadata: Mapping[str, str]) -> None:
    """Refuse a choice of layers other than the default, which would be numbered differently."""
    for part, classes in zip(("unet", "text_encoder"), _UNET_CLASSES, strict=True):
        text = metadata.get(part, "")
        try:
            parsed: object = json.loads(text) if 0 < len(text) < 10_000 else []
        except (ValueError, RecursionError):
            parsed = [text]
        if parsed and not isinstance(parsed, list):
            parsed = [text]
        targets = {str(name) for name in cast("list[object]", parsed)} if parsed else classes
        if not targets <= classes:
            raise ValueError(
                f"the safelora was trained on {', '.join(sorted(targets))}, and how its layers are "
                "numbered then is not known."
            )


def _unet_names(pairs: Sequence[Pair]) -> list[str]:
    """Names for SD1.x and SD2 UNets; the shapes show which of the two orders was used."""
    blocks = list(_transformer_blocks())
    inner = len(_OLD)
    if len(pairs) != inner * len(blocks):
        raise ValueError(
            f"the safelora has {len(pairs)} layers in the UNet, and {inner * len(blocks)} are "
            "known: it was trained on another choice of layers."
        )
    groups = [pairs[start : start + inner] for start in range(0, len(pairs), inner)]
    for order in (_OLD, _NEW):
        gated = order.index(_GATED)
        if all(_gates(group[gated]) for group in groups):
            return [f"{block}_{module}" for block in blocks for module in order]
    raise ValueError("the shapes of the safelora's layers are in no known order.")


def _gates(pair: Pair) -> bool:
    """Whether a layer is GEGLU's, the only one with eight times as many outputs as inputs."""
    up, down = pair
    return up.shape[0] == 8 * down.shape[1]


def _transformer_blocks() -> Iterator[str]:
    """The UNet's transformers in the order of torch, where its middle is registered last."""
    blocks = [*((f"down_blocks_{n}", 2) for n in (0, 1, 2))]
    blocks += [*((f"up_blocks_{n}", 3) for n in (1, 2, 3)), ("mid_block", 1)]
    for block, count in blocks:
        for number in range(count):
            yield f"{block}_attentions_{number}_transformer_blocks_0"


def _text_names(pairs: Sequence[Pair]) -> list[str]:
    if len(pairs) % len(_TEXT):
        raise ValueError(f"the safelora has {len(pairs)} layers in the text, not a multiple of 4.")
    layers = range(len(pairs) // len(_TEXT))
    return [f"text_model_encoder_layers_{n}_self_attn_{name}" for n in layers for name in _TEXT]


FORMAT = Format(title="a safelora of cloneofsimo", recognizes=_recognizes, read=_read)
