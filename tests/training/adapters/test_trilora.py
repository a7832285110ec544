"""TriLoRA: what it computes, what it starts from, and that its fold is exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pack.training.adapters.trilora import Core, Sigma, TriLora, TriLoraConfig, singular_values
from pack.training.ports import Layer

WEIGHT = torch.randn(24, 20, generator=torch.Generator().manual_seed(1))
LAYER = Layer(name="blocks.0.attn1.to_q", shape=(24, 20), weight=lambda: WEIGHT)
RANKS = [(4, 0), (4, 6), (6, 4)]


def build(**settings: object) -> TriLora:
    """A TriLoRA whose zero matrix has been moved away from zero."""
    adapter = TriLoraConfig(**settings).build(LAYER, torch.Generator().manual_seed(2))
    torch.nn.init.normal_(adapter.a, generator=torch.Generator().manual_seed(3))
    return adapter.double()


def full_delta(adapter: TriLora, settings: dict[str, object]) -> Tensor:
    """s B C A, written out from the parameters."""
    r1, r2 = adapter.a.shape[0], adapter.b.shape[1]
    core = torch.zeros(r2, r1, dtype=torch.float64)
    if settings["core"] is Core.DIAGONAL:
        for i, value in enumerate(adapter.c):
            core[i, i] = value
    else:
        core[:] = adapter.c
    scale = settings.get("alpha", min(r1, r2)) / min(r1, r2)
    return scale * adapter.b @ core @ adapter.a


@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize(("rank", "rank_out"), RANKS)
def test_forward_equals_the_full_delta(core: Core, rank: int, rank_out: int):
    settings = {"rank": rank, "rank_out": rank_out, "core": core, "alpha": 3.0}
    adapter = build(**settings)
    x = torch.randn(5, 20, dtype=torch.float64)
    assert torch.allclose(adapter(x), x @ full_delta(adapter, settings).T, rtol=0, atol=1e-10)


@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize(("rank", "rank_out"), RANKS)
def test_the_saved_lora_is_the_three_factors_folded(core: Core, rank: int, rank_out: int):
    adapter = build(rank=rank, rank_out=rank_out, core=core, alpha=3.0)
    saved = adapter.tensors()
    up, down = saved["lora_up.weight"], saved["lora_down.weight"]
    assert len(down) == min(rank, rank_out or rank)
    folded = saved["alpha"].double() / len(down) * up @ down
    wanted = full_delta(adapter, {"core": core, "alpha": 3.0})
    assert torch.allclose(folded, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("core", Core)
def test_gradients_agree_with_finite_differences(core: Core):
    adapter = build(rank=3, rank_out=4, core=core)
    x = torch.randn(2, 20, dtype=torch.float64)
    names, parameters = zip(*adapter.named_parameters(), strict=True)

    def output(*values: Tensor) -> Tensor:
        return torch.func.functional_call(adapter, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, parameters)


@pytest.mark.parametrize("sigma", Sigma)
def test_at_the_start_nothing_is_added(sigma: Sigma):
    adapter = TriLoraConfig(rank=4, sigma=sigma).build(LAYER, torch.Generator().manual_seed(2))
    assert torch.equal(adapter(torch.randn(3, 20)), torch.zeros(3, 24))


def test_the_core_starts_from_the_weights_singular_values():
    exact = torch.linalg.svdvals(WEIGHT)
    paper = TriLoraConfig(rank=4, sigma=Sigma.PAPER).build(LAYER, torch.Generator())
    scaled = TriLoraConfig(rank=4, sigma=Sigma.SCALED).build(LAYER, torch.Generator())
    identity = TriLoraConfig(rank=4, sigma=Sigma.IDENTITY).build(LAYER, torch.Generator())
    assert torch.allclose(paper.c, exact[:4], rtol=1e-3)
    assert torch.allclose(scaled.c, exact[:4] / exact[0], rtol=1e-3)
    assert torch.equal(identity.c, torch.ones(4))


def test_the_singular_values_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    singular_values(LAYER, 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_outer_matrix_is_gaussian_of_deviation_one_over_its_rank():
    layer = Layer(name="attn1.to_q", shape=(4000, 20), weight=lambda: torch.ones(4000, 20))
    adapter = TriLoraConfig(rank=8).build(layer, torch.Generator().manual_seed(0))
    assert adapter.b.std().item() == pytest.approx(1 / 8, rel=0.02)


def test_the_penalty_is_zero_for_orthogonal_factors_alone():
    adapter = build(rank=4, orthogonality=0.5)
    assert adapter.penalty().item() > 1
    adapter.b.data = torch.linalg.qr(adapter.b.data)[0]
    adapter.a.data = torch.linalg.qr(adapter.a.data.T)[0].T
    assert adapter.penalty().item() == pytest.approx(0, abs=1e-10)
    assert build(rank=4).penalty() is None


def test_a_layer_without_a_weight_is_one_sentence():
    bare = Layer(name="attn1.to_q", shape=(24, 20))
    with pytest.raises(ValueError, match="attn1.to_q has no weight"):
        TriLoraConfig(rank=4).build(bare, torch.Generator())


def test_a_rank_larger_than_the_layer_is_one_sentence():
    with pytest.raises(ValueError, match="rank 21 is larger than blocks.0.attn1.to_q"):
        TriLoraConfig(rank=4, rank_out=21).build(LAYER, torch.Generator())


def test_singular_values_are_kept_by_the_weights_digest():
    asked: list[int] = []

    def weight() -> Tensor:
        asked.append(1)
        return WEIGHT

    kept: dict[str, Tensor] = {}
    layer = Layer(name="a", shape=(24, 20), weight=weight, kept=kept)
    first = singular_values(layer, 4)
    (key,) = kept
    kept[key] = torch.arange(4.0)
    assert torch.equal(singular_values(layer, 4), torch.arange(4.0)), "read, not computed again"
    other = Layer(name="a", shape=(24, 20), weight=lambda: WEIGHT + 1e-6, kept=kept)
    assert torch.allclose(singular_values(other, 4), first, rtol=1e-3) and len(kept) == 2
    assert len(singular_values(layer, 6)) == 6 and len(kept) == 3


def test_a_convolution_starts_from_the_values_of_its_flat_kernel():
    weight = torch.randn(10, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    layer = Layer(name="conv", shape=(10, 4, 3, 3), weight=lambda: weight)
    adapter = TriLoraConfig(rank=3, sigma=Sigma.PAPER).build(layer, torch.Generator())
    assert torch.allclose(adapter.c, torch.linalg.svdvals(weight.flatten(1))[:3], rtol=1e-3)
    assert adapter.a.shape == (3, 4, 3, 3)
