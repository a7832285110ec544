"""Captions of a step go through every text encoder in one batch and come out as if alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from comfy.sd1_clip import SDClipModel
from torch import Tensor

from harness.host.measure import left_behind
from pack.nodes.host.text.port import HostTextEncoder
from pack.training.ports import Caption, Mention

LONG = "a very long caption of " + "many small words " * 30
CAPTIONS: list[Caption] = [
    ("a photo of ", Mention("tok"), " in a garden"),
    ("",),
    (LONG, Mention("tok")),
    (Mention("tok"), " and ", Mention("tok")),
]


def vectors(text: HostTextEncoder) -> dict[str, torch.nn.Parameter]:
    """Two rows for each encoder, from words of the table."""
    return {key: torch.nn.Parameter(rows[:2]) for key, rows in text.rows("red house").items()}


@contextmanager
def counted(clip) -> Iterator[Counter]:
    """How often each encoder's transformer is called, and with how many chunks."""
    calls: Counter = Counter()
    encoders = [m for m in clip.cond_stage_model.modules() if isinstance(m, SDClipModel)]
    hooks = [
        e.transformer.register_forward_pre_hook(lambda m, a: calls.update([id(m)]))
        for e in encoders
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("weights", [False, True])
def test_a_batch_encodes_as_its_captions_alone(request, family: str, weights: bool):
    """Conditioning within 1e-5 of its size and gradients within 1e-4: sums in another order."""
    clip = request.getfixturevalue(family).clip
    captions = CAPTIONS
    if weights:
        captions = [*CAPTIONS, ("a (", Mention("tok"), ":1.3) on grass")]
    with torch.inference_mode(False), torch.enable_grad():
        text = HostTextEncoder(clip)
        rows = vectors(text)
        with text.attach({"tok": rows}):
            alone = [text.encode([c], weights=weights)[0].tensors for c in captions]
            wanted = gradients(alone, rows)
            batch = [c.tensors for c in text.encode(captions, weights=weights)]
            got = gradients(batch, rows)
    for one, other in zip(alone, batch, strict=True):
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            assert tensor.shape == other[name].shape
            assert (tensor - other[name]).abs().max() < 1e-5 * tensor.abs().max()
    for a, b in zip(wanted, got, strict=True):
        assert (a - b).norm() < 1e-4 * a.norm()


def gradients(conditions: list, rows: dict[str, torch.nn.Parameter]) -> list[Tensor]:
    """Of a sum with fixed random weights, so that every number counts."""
    draw = torch.Generator().manual_seed(0)
    total = sum(
        (tensor * torch.randn(tensor.shape, generator=draw)).sum()
        for tensors in conditions
        for tensor in tensors.values()
    )
    return list(torch.autograd.grad(total, list(rows.values())))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_every_encoder_is_called_once_for_a_batch(request, family: str):
    clip = request.getfixturevalue(family).clip
    with torch.inference_mode(False), torch.no_grad():
        text = HostTextEncoder(clip)
        with text.attach({"tok": vectors(text)}):
            text.encode(CAPTIONS[:1])
            with counted(clip) as calls:
                text.encode(CAPTIONS)
    assert calls and set(calls.values()) == {1}


def test_no_encoder_keeps_a_replaced_forward(sd15):
    with torch.inference_mode(False), torch.no_grad():
        text = HostTextEncoder(sd15.clip)
        with text.attach({"tok": vectors(text)}):
            text.encode(CAPTIONS)
    assert left_behind(sd15.clip.cond_stage_model) == []
