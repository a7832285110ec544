"""Weights kept in fewer bits than they are computed with: a cast one is gone with its layer."""

from __future__ import annotations

import weakref
from typing import Any

import comfy.ops
import pytest
import torch
from host.denoiser.test_gradients import load_unet
from torch import Tensor, nn

from harness.host.measure import SHORT, borrowed, make_batch, probe
from harness.host.runner import Loaded
from pack.nodes.host.denoiser.frozen_layers import frozen_forward, tamed
from pack.training.adapters.targets import Targets


class Casts:
    """Every weight that the host casts, and how many bytes of them are there at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.most, self.names, self._alive = 0, list[nn.Module](), dict[int, int]()
        cast = comfy.ops.cast_bias_weight

        def watched(module: nn.Module, *args: Any, **options: Any) -> tuple[Any, ...]:
            made = cast(module, *args, **options)
            weight: Tensor = made[0]
            if weight.dtype != module.weight.dtype:
                self._note(module, weight)
            return made

        monkeypatch.setattr(comfy.ops, "cast_bias_weight", watched)

    def _note(self, module: nn.Module, weight: Tensor) -> None:
        self.names.append(module)
        key, size = len(self.names), weight.numel() * weight.element_size()
        self._alive[key] = size
        weakref.finalize(weight, self._alive.pop, key)
        self.most = max(self.most, self.alive)

    @property
    def alive(self) -> int:
        """Bytes of the cast weights that anything still holds."""
        return sum(self._alive.values())

    def restart(self) -> None:
        self.most, self.names = 0, []


@pytest.mark.parametrize("targets", [Targets.ATTENTION, Targets.CONVOLUTIONS], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn], ids=str)
def test_one_cast_weight_at_a_time_forward_and_backward(
    sd15: Loaded, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, targets: Targets
):
    model, batch = load_unet(sd15, dtype), make_batch([SHORT])
    network = model.model.diffusion_model
    largest = 4 * max(weight.numel() for weight in network.parameters())
    with borrowed(sd15, model=model, rank=4, targets=targets) as ports:
        conditions = [one.detach() for one in ports.text.encode(batch.captions)]
        noised = batch.noised(ports.denoiser)
        casts = Casts(monkeypatch)
        output = ports.denoiser.predict(noised, conditions, batch.crops)
        assert casts.names and casts.alive == 0
        assert 0 < casts.most <= largest
        casts.restart()
        ports.gradients_of(probe(output))
    kinds = {type(module).__name__ for module in casts.names}
    assert {"Linear", "Conv2d", "GroupNorm", "LayerNorm"} <= kinds
    assert casts.alive == 0
    assert 0 < casts.most <= largest


def test_matrices_in_fast_fp8_that_share_an_input_leave_it_as_it_is():
    """The host's own clamp it in place, so that the second sees another, and no gradient comes."""
    draw = torch.Generator().manual_seed(0)
    layers = [comfy.ops.fp8_ops.Linear(8, 8, bias=False) for _ in range(2)]
    for layer in layers:
        weight = torch.randn(8, 8, generator=draw).to(torch.float8_e4m3fn)
        layer.weight = nn.Parameter(weight, requires_grad=False)
    forwards = [frozen_forward(layer, tamed(layer, layer.forward)) for layer in layers]
    x = 1000 * torch.randn(3, 8, generator=draw)
    shared = x.clone().requires_grad_() * 1
    shared.retain_grad()
    sum(forward(shared) for forward in forwards).sum().backward()
    assert torch.equal(shared.detach(), x)
    rows = sum(layer.weight.float().sum(0) for layer in layers)
    torch.testing.assert_close(shared.grad, rows.expand(3, 8))


def test_a_cast_weight_that_is_kept_is_seen(sd15: Loaded, monkeypatch: pytest.MonkeyPatch):
    """So that the test above can fail: plain autograd keeps the cast weight of a Linear."""
    model = load_unet(sd15, torch.float16)
    layers = [m for m in model.model.diffusion_model.modules() if isinstance(m, nn.Linear)]
    casts = Casts(monkeypatch)
    x = torch.randn(2, layers[0].in_features, requires_grad=True)
    output = layers[0](x)
    assert casts.alive == 4 * layers[0].weight.numel()
    output.sum().backward()
    del output
    assert casts.alive == 0
