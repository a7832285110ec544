"""Whatever the host's own nodes do to a MODEL, it trains, and samples afterwards as before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from host.denoiser.test_borrowing import sample
from torch import Tensor

import nodes
from harness.host.graphs import defaults
from harness.host.measure import SHORT, borrowed, make_batch
from harness.host.runner import Loaded

SLOW = "TorchCompileModel"
"""A test of its own has this one, which would compile the whole model to sample here."""


def patching() -> Iterator[tuple[str, Callable[[ModelPatcher], ModelPatcher]]]:
    """The host's nodes that turn one MODEL into another by widgets alone."""
    for name, node in nodes.NODE_CLASS_MAPPINGS.items():
        inputs, settings = node.INPUT_TYPES().get("required", {}), defaults(name)
        sockets = [key for key in inputs if key not in settings]
        if name == SLOW or [inputs[key][0] for key in sockets] != ["MODEL"]:
            continue
        if "MODEL" in node.RETURN_TYPES:
            yield name, patched_by(node, sockets[0], settings)


def patched_by(
    node: Any, key: str, settings: dict[str, Any]
) -> Callable[[ModelPatcher], ModelPatcher]:
    """What the node makes of a MODEL."""

    @torch.inference_mode()
    def patch(model: ModelPatcher) -> ModelPatcher:
        made = getattr(node(), node.FUNCTION)(**{key: model}, **settings)
        return getattr(made, "result", made)[node.RETURN_TYPES.index("MODEL")]

    return patch


def sampled(model: ModelPatcher, loaded: Loaded) -> Tensor | None:
    """Latents, or None where the model is of no family that the node is for."""
    try:
        return sample(model, loaded.clip)
    except (AttributeError, ValueError):
        return None


def test_a_model_from_any_node_of_the_host_trains_and_samples_as_before(sd15: Loaded):
    batch, trained = make_batch([SHORT]), 0
    for name, patch in patching():
        try:
            model = patch(sd15.model)
        except AttributeError:
            continue  # The node asks for what this family does not have.
        before = sampled(model, sd15)
        if before is None:
            continue
        with borrowed(sd15, model=model, rank=4) as ports:
            gradients = ports.gradients(batch)
        assert all(torch.isfinite(one).all() and one.abs().max() > 0 for one in gradients), name
        assert torch.equal(sample(model, sd15.clip), before), name
        trained += 1
    assert trained > 40


def test_a_patch_is_told_what_the_sampler_would_tell_it(sd15: Loaded):
    """Image prompts and regional ones ask which part of the batch is of which prompt."""
    told: list[dict[str, Any]] = []

    def look(query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
        told.append(options)
        return query, key, value

    model = sd15.model.clone()
    model.set_model_attn2_patch(look)
    sample(model, sd15.clip)
    sampling, told = told[0], []
    with borrowed(sd15, model=model, rank=4) as ports, torch.no_grad():
        ports.predict(make_batch([SHORT]))
    keys = ("cond_or_uncond", "uuids", "sigmas", "block", "n_heads", "original_shape")
    missing = [key for key in keys if key in sampling and key not in told[0]]
    assert not missing
    assert told[0]["cond_or_uncond"] == [0] and len(told[0]["uuids"]) == 1
