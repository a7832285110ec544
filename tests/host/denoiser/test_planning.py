"""The automatic choice of checkpointing and micro-batch, on the host's models."""

from __future__ import annotations

import torch

from harness.host.measure import SHORT, borrowed, kept_for_backward, make_batch, size_of
from harness.host.runner import Loaded
from pack.nodes.host.denoiser import budget
from pack.nodes.host.denoiser.budget import measure_cost, plan_run
from pack.nodes.host.denoiser.port import HostDenoiser
from pack.nodes.host.disk import Disk
from pack.nodes.host.run.drive import gradients
from pack.nodes.host.text.port import HostTextEncoder
from pack.training.adapters import build_adapters
from pack.training.adapters.adapted import Adapters
from pack.training.adapters.lora import LoraConfig
from pack.training.config import TrainConfig
from pack.training.data import TrainingData
from pack.training.dataset.batches import Batches
from pack.training.loop import train
from pack.training.parts import Parts

LORA = LoraConfig(rank=4, alpha=4)


def parts_of(loaded: Loaded, batch: int = 2) -> tuple[Parts, HostDenoiser]:
    """A LoRA run on two pictures, small enough for a test."""
    text = HostTextEncoder(loaded.clip)
    denoiser = HostDenoiser(loaded.model, checkpointing=False, companions=text.companions)
    drawn = make_batch([("a hill",), ("a house",)])
    parts = Parts(
        denoiser=denoiser,
        text=text,
        concepts=(),
        trained=[Adapters(LORA, build_adapters(LORA, denoiser.layers(), 0), {})],
        data=TrainingData(
            latents=list(drawn.latents),
            captions=list(drawn.captions),
            crops=list(drawn.crops),
            batches=Batches([0, 0], [1, 1], batch, 0),
        ),
    )
    return parts, denoiser


def trained(loaded: Loaded, folder, monkeypatch, free: int) -> tuple[list[torch.Tensor], str]:
    """The factors after two steps under a plan for `free` bytes, and the plan's reason."""
    monkeypatch.setattr(budget, "free_memory", lambda _: free)
    with gradients():
        parts, denoiser = parts_of(loaded)
        plan = plan_run(parts, denoiser, 2, folder / "plan.json", Disk())
        for _ in train(parts, TrainConfig(steps=2, batch_size=2)):
            pass
    return [p.detach().clone() for p in parts.parameters().values()], plan.reason


def test_what_is_measured_is_what_backward_keeps(sd15: Loaded):
    """Blocks that keep everything keep, by the measurement, what autograd saves then."""
    with gradients():
        parts, denoiser = parts_of(sd15)
        cost = measure_cost(parts, denoiser)
    batch = make_batch([SHORT])
    with borrowed(sd15, rank=4) as ports, kept_for_backward() as kept:
        conditions = [one.detach() for one in ports.text.encode([("a hill",)])]
        kept.clear()
        ports.denoiser.predict(batch.noised(ports.denoiser), conditions, batch.crops)
    ours = size_of([one for one in kept if not isinstance(one, torch.nn.Parameter)])
    # The first block comes before the first adapter, where nothing is recorded.
    assert [size > 0 for size in cost.blocks.values()] == [False, True, True, True]
    assert cost.bytes_for(frozenset(cost.blocks), 1) - cost.fixed > ours
    assert sum(cost.blocks.values()) < 2 * ours


def test_a_plan_changes_the_memory_and_not_the_result(sd15: Loaded, tmp_path, monkeypatch):
    made = {}
    for name, free in {"all": 10**12, "none": 10**12}.items():
        folder = tmp_path / name
        folder.mkdir()
        if name == "none":
            (folder / "plan.json").write_text('{"kept": [], "split": false, "reason": "less"}')
        made[name], reason = trained(sd15, folder, monkeypatch, free)
        assert ("as when the run began" in reason) == (name == "none")
    assert all(torch.equal(a, b) for a, b in zip(made["all"], made["none"], strict=True))


def test_a_batch_that_does_not_fit_goes_through_in_parts(sd15: Loaded, tmp_path, monkeypatch):
    whole, _ = trained(sd15, tmp_path, monkeypatch, 10**12)
    (tmp_path / "plan.json").unlink()
    parted, reason = trained(sd15, tmp_path, monkeypatch, 0)
    assert "the batch of 2 goes through sample by sample" in reason
    for a, b in zip(whole, parted, strict=True):
        # One AdamW step turns rounding of a gradient near zero into a whole rate.
        assert (a - b).abs().max() < 3e-4
        assert (a - b).abs().mean() < 2e-6
