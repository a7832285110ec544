"""A MODEL with another pack's quantized layers trains, and takes a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from host.denoiser.test_borrowing import bundle_of, sample, training_only
from host.run.test_main_job import TOKS

from factories import write_pictures
from harness.host.graphs import defaults
from harness.host.measure import (
    SHORT,
    borrowed,
    disagreement,
    kept_for_backward,
    make_batch,
    probe,
    size_of,
)
from harness.host.runner import Host, Loaded, Outputs
from harness.models.packed import load_packed
from pack.nodes.host.bundle.apply import apply_bundle


@pytest.fixture
def packed(host: Host, sd15: Loaded) -> Iterator[Loaded]:
    """The tiny model, whose Linear layers keep bytes."""
    with torch.inference_mode():
        host.loaded["packed"] = load_packed(sd15)
    yield host.loaded["packed"]
    del host.loaded["packed"]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_gradients_agree_with_finite_differences(packed: Loaded, checkpointing: bool):
    batch = make_batch([SHORT])
    with borrowed(packed, rank=4, checkpointing=checkpointing) as ports:
        for parts in (
            [ports.vectors["TOK"]["clip_l"]],
            [adapter.down for adapter in ports.adapters.values()],
        ):
            ports.gradients(batch)
            grads = [part.grad for part in parts]
            assert min(grad.abs().max() for grad in grads) > 0
            error = disagreement(lambda: probe(ports.predict(batch)), parts, grads, step=3e-2)
            assert error < 5e-3


def test_no_unpacked_weight_is_kept_for_backward(packed: Loaded, sd15: Loaded):
    batch, kept = make_batch([SHORT]), []
    for loaded in (packed, sd15):
        with borrowed(loaded, rank=4) as ports:
            conditions = ports.text.encode(batch.captions)
            with kept_for_backward() as tensors:
                ports.denoiser.predict(batch.noised(ports.denoiser), conditions, batch.crops)
        kept.append(size_of(tensors))
    assert kept[0] == kept[1]


@pytest.mark.parametrize("adapter", ["Pivotal_Lora", "Pivotal_TriLora"])
def test_what_was_trained_is_applied(
    run_graph: Callable[..., Outputs], host: Host, packed: Loaded, adapter: str
):
    write_pictures(host.base / "input" / "toks", TOKS)
    graph = training_only("packed", learning_rate=1e-2)
    graph["lora"] = {"class_type": adapter, "inputs": {**defaults(adapter), "rank": 4}}
    bundle = bundle_of(run_graph, graph)
    before = sample(packed.model, packed.clip)
    with torch.inference_mode():
        model, clip, names, notes = apply_bundle(packed.model, packed.clip, bundle)
    assert (names, notes) == (["tok"], [])
    assert model.patches
    assert torch.equal(sample(packed.model, clip), before)
