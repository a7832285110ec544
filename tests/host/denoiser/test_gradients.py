"""Gradients through the host's tokenizer, text encoders and UNet, and what they keep in memory."""

from __future__ import annotations

from collections.abc import Iterator

import comfy.sd
import pytest
import torch
from torch import nn

from harness.host.measure import (
    LONG,
    SHORT,
    WEIGHTED,
    borrowed,
    disagreement,
    kept_for_backward,
    make_batch,
    probe,
    relative,
    size_of,
    varied,
    weights_among,
    weights_of,
)
from harness.host.runner import Loaded
from pack.nodes.host.denoiser import injection
from pack.nodes.host.denoiser.frozen_layers import Forward
from pack.nodes.host.text import port
from pack.training.adapters.targets import Targets

STEP = 3e-2
"""Of a finite difference, as a share of the parameters' root mean square."""
CLOSE = 5e-3
"""Fp32 rounding over such a step, with room for other processors; measured 0.0003 to 0.0016."""


@pytest.fixture
def loaded(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    """The models of a family, sd15 unless parametrized, with norms and biases that matter."""
    found: Loaded = request.getfixturevalue(getattr(request, "param", "sd15"))
    with varied(found.model.model.diffusion_model, found.clip.cond_stage_model):
        yield found


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize(
    ("loaded", "encoder"),
    [("sd15", "clip_l"), ("sdxl", "clip_l"), ("sdxl", "clip_g")],
    indirect=["loaded"],
)
def test_gradients_of_embedding_rows_agree_with_finite_differences(
    loaded: Loaded, encoder: str, weighted: bool
):
    batch = make_batch([WEIGHTED if weighted else SHORT])
    with borrowed(loaded) as ports:
        rows = ports.vectors["TOK"][encoder]
        ports.gradients(batch, weights=weighted)
        grads = [rows.grad]
        error = disagreement(
            lambda: probe(ports.predict(batch, weights=weighted)), [rows], grads, step=STEP
        )
    assert grads[0].square().sum(dim=1).min() > 0
    assert error < CLOSE


def test_the_weight_of_a_mention_reaches_the_gradient(loaded: Loaded):
    """With weights on, parentheses are a weight; with weights off they are text."""
    batch = make_batch([WEIGHTED])
    with borrowed(loaded) as ports:
        heavier = ports.gradients(batch, weights=True)
        as_text = ports.gradients(batch, weights=False)
    assert relative(heavier, as_text) > 0.1


@pytest.mark.parametrize("factor", ["up", "down"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_gradients_of_lora_factors_agree_with_finite_differences(
    loaded: Loaded, factor: str, checkpointing: bool
):
    batch = make_batch([SHORT])
    with borrowed(loaded, rank=4, checkpointing=checkpointing) as ports:
        factors = [getattr(adapter, factor) for adapter in ports.adapters.values()]
        ports.gradients(batch)
        grads = [parameter.grad for parameter in factors]
        error = disagreement(lambda: probe(ports.predict(batch)), factors, grads, step=STEP)
    assert min(grad.abs().max() for grad in grads) > 0
    assert error < CLOSE


@pytest.mark.parametrize("loaded", ["sd15", "sdxl"], indirect=True)
def test_checkpointing_changes_no_gradient(loaded: Loaded):
    """Bit for bit: what feeds several blocks is summed in one and the same order."""
    batch = make_batch([SHORT, LONG])
    with borrowed(loaded, rank=4) as ports:
        kept = ports.gradients(batch)
    with borrowed(loaded, rank=4, checkpointing=True) as ports:
        recomputed = ports.gradients(batch)
    assert all(grad.abs().max() > 0 for grad in kept)
    assert all(torch.equal(a, b) for a, b in zip(recomputed, kept, strict=True))


def test_checkpointing_keeps_less(loaded: Loaded):
    batch = make_batch([SHORT, LONG])
    sizes = {}
    for checkpointing in (False, True):
        with borrowed(loaded, rank=4, checkpointing=checkpointing) as ports:
            conditions = ports.text.encode(batch.captions)
            with kept_for_backward() as kept:
                ports.denoiser.predict(batch.noised(ports.denoiser), conditions, batch.crops)
        sizes[checkpointing] = size_of(kept)
    assert sizes[True] < sizes[False] / 3


def record_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let autograd record the host's own operators, but for norms that nothing else gets past."""
    frozen = injection.frozen_forward

    def plainly(module: nn.Module, forward: Forward, *, input_changes: bool) -> Forward | None:
        norm = isinstance(module, nn.LayerNorm) and input_changes
        return frozen(module, forward, input_changes=True) if norm else None

    monkeypatch.setattr(injection, "frozen_forward", plainly)


def load_unet(loaded: Loaded, dtype: torch.dtype) -> object:
    """The UNet alone; outside inference mode, so that plain autograd can keep its weights."""
    return comfy.sd.load_diffusion_model(str(loaded.path), model_options={"dtype": dtype})


@pytest.mark.parametrize("targets", [Targets.ATTENTION, Targets.CONVOLUTIONS], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn], ids=str)
def test_no_weight_of_the_unet_is_kept_for_backward(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, targets: Targets
):
    model, batch = load_unet(loaded, dtype), make_batch([SHORT])
    network = model.model.diffusion_model
    grads, kept, names = {}, {}, {}
    for way in ("frozen", "plain"):
        if way == "plain":
            record_plainly(monkeypatch)
        with varied(network), borrowed(loaded, model=model, rank=4, targets=targets) as ports:
            conditions = ports.text.encode(batch.captions)
            noised = batch.noised(ports.denoiser)
            with kept_for_backward() as kept[way]:
                output = ports.denoiser.predict(noised, conditions, batch.crops)
            grads[way] = ports.gradients_of(probe(output))
            names[way] = weights_among(kept[way], weights_of(network))
    assert not names["frozen"]
    assert len(names["plain"]) > 20
    assert size_of(kept["frozen"]) < size_of(kept["plain"]) / 5
    assert relative(grads["frozen"], grads["plain"]) < 1e-6


@pytest.mark.parametrize("loaded", ["sd15", "sdxl"], indirect=True)
def test_no_weight_of_the_text_encoders_is_kept_for_backward(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
):
    weights = weights_of(loaded.clip.cond_stage_model)
    # Without recomputation everything that a layer keeps is seen in the forward pass.
    monkeypatch.setattr(port, "IN_PLACE_BLOCKS", frozenset())
    kept = {}
    for way in ("frozen", "plain"):
        if way == "plain":
            record_plainly(monkeypatch)
        with borrowed(loaded) as ports, kept_for_backward() as kept[way]:
            ports.text.encode([SHORT])
    assert not weights_among(kept["frozen"], weights)
    assert len(weights_among(kept["plain"], weights)) > 10
